"""Stated levels: how good a rationale says that an image is in each aesthetic dimension.

- The scale is that of `rapo.aescot.writer.LEVELS`: 0 is the worst, 4 the best.
- The rule-based teacher's clauses have exact levels. Other text is read by lists of English words:
  the first word of `LEVELS` that a dimension's clauses hold, unless their tone
  (`rapo.aescot.opinions.tone`) contradicts it, as in "not good"; or else the tone, from 0 for
  negative to 4 for positive.
- A dimension without any word of opinion has no level. Nothing is guessed from the other ones.
"""

from __future__ import annotations

import re

from rapo.aescot.opinions import tone
from rapo.aescot.writer import LEVELS, parse_levels
from rapo.answers.dimensions import split_dimensions

_LEVEL_WORD = re.compile(rf"\b(?:{'|'.join(LEVELS)})\b", re.IGNORECASE)

_MIDDLE = (len(LEVELS) - 1) / 2


def stated_levels(rationale: str) -> dict[str, float]:
    """The level in [0, 4] of each dimension that a rationale judges."""
    stated = {name: float(level) for name, level in parse_levels(rationale).items()}
    for name, clauses in split_dimensions(rationale):
        if name in stated:
            continue
        mood, opinions = tone(clauses)
        word = _LEVEL_WORD.search(clauses)
        level = None if word is None else float(LEVELS.index(word[0].lower()))
        if level is not None and (level - _MIDDLE) * mood >= 0.0:
            stated[name] = level
        elif opinions:
            stated[name] = _MIDDLE * (1.0 + mood)
    return stated
