"""Grounding: how well a rationale fits the measures of its image, as a term of the reward.

- Each dimension whose level the rationale states counts by its distance from the measured place on
  the scale of levels. A dimension that it leaves out counts 0, so that saying little earns little.
- Only the first statement about a dimension counts: repetition earns nothing.
- Statements are read in the rule-based teacher's clauses (`rapo.aescot.writer`). A rationale in
  other words earns 0.
"""

from __future__ import annotations

import numpy as np

from rapo.aescot.writer import LEVELS, parse_levels
from rapo.arrays import Floats
from rapo.records import DIMENSIONS

#: A statement earns nothing from this distance on, in levels.
_FAR = 2.0


def grounding(rationale: str, measured: Floats) -> float:
    """The term in [0, 1] of a rationale whose image has the measures `measured` `(5,)` in [0, 1],
    in the order of `DIMENSIONS`: the mean over the dimensions of max(0, 1 - |stated - measured| /
    2), in levels."""
    stated = parse_levels(rationale)
    places = np.clip(np.asarray(measured) * len(LEVELS) - 0.5, 0, len(LEVELS) - 1)
    fits = [
        max(0.0, 1.0 - abs(stated[name] - float(place)) / _FAR) if name in stated else 0.0
        for name, place in zip(DIMENSIONS, places, strict=True)
    ]
    return sum(fits) / len(fits)
