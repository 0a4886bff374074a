"""Leaks: pieces of a critique that reveal a score, or that a score was given.

- A number is a leak by its use, not by its presence. `f/2.8`, `35 mm`, `1/250 s`, `ISO 400`, "three
  boats" and "the rule of thirds" are the language of photography; "a solid 8" is a score.
- A scale is a leak wherever it stands: `8/10`, "seven out of ten", four stars, "a B+".
- A word of rating is a leak where it names a score that exists ("this justifies the rating"), not
  where it is another word ("first-rate", "frame rate").
- A mention of the instructions or of the human raters is a leak.
- A sentence that no rule finds is a leak where it is worded like those of `bench/judge`. Voters,
  marks and musical scores may be part of the image: a sentence about them that is clearly worded
  like the others there is no leak.

The rules are rapo's own; the paper names the error without them (Aes-R1, arXiv 2509.21871,
appendix E.2). `bench/judge` measures them.
"""

from __future__ import annotations

import re
from collections.abc import Container

from rapo.aescot.leaks.allusions import ALLUSIONS
from rapo.aescot.leaks.harmless import HARMLESS
from rapo.aescot.leaks.likeness import likenesses
from rapo.aescot.leaks.rules import LEAKS, SEEN
from rapo.aescot.leaks.words import tokens
from rapo.aescot.plain_text import plain_text

LIKENESS = "a leak's wording"
_CLEARLY_NONE = -3.5  # log-odds above the threshold of a leak
_SHOWN = 60  # characters of a leak that are shown at most


def find_leak(text: str) -> str:
    """The piece of a text that reveals a score, or that a score was given; empty if there is
    none."""
    plain = plain_text(text)
    tags, places = tokens(plain)
    scores = likenesses(tags)
    clear = {place for piece, score in scores if score < _CLEARLY_NONE for place in piece}
    if found := _by_rule(tags, clear):
        kind, piece = found
    elif like := next((piece for piece, score in scores if score > 0), None):
        kind, piece = LIKENESS, like
    else:
        return ""
    start, end = places[piece[0]][0], places[piece[-1]][1]
    return f"{kind}: {plain[start : min(end, start + _SHOWN)]!r}"


def rule_leak(text: str) -> bool:
    """Whether a rule finds a leak, whatever the wording is like."""
    return _by_rule(tokens(plain_text(text))[0]) is not None


def _by_rule(tags: list[str], clear: Container[int] = ()) -> tuple[str, range] | None:
    """The kind of the leak that a rule finds first, and its tokens. `clear` are tokens of sentences
    that are clearly worded like none."""
    tagged = f" . {' '.join(tags)} . "
    for rule in HARMLESS:
        tagged = rule.sub(_blank, tagged)
    for kind, rule in (*LEAKS, *ALLUSIONS):
        for found in rule.finditer(tagged):
            # The text begins after a full stop of its own.
            first = tagged.count(" ", 0, found.start()) - 2
            last = min(first + found[0].count(" "), len(tags) - 1)
            if kind not in SEEN or last not in clear:
                return kind, range(max(first, 0), last + 1)
    return None


def _blank(found: re.Match[str]) -> str:
    """As many blanked tokens as a rule found."""
    return " ".join("Q" for _ in found[0].split())
