"""Likeness: how much a sentence is worded like a leak (`rapo.aescot.wording`). Its tokens are tags
(`rapo.aescot.leaks.words`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rapo.aescot.wording import LEAK, phrases

_ENDS = frozenset(".!?;")


def likenesses(tags: Sequence[str]) -> list[tuple[range, float]]:
    """The tokens of each sentence, and how much it is worded like a leak: above 0 it is a
    leak."""
    return [(each, LEAK.score(phrases(tags[each.start : each.stop]))) for each in sentences(tags)]


def sentences(tags: Sequence[str]) -> Iterator[range]:
    """The sentences of a text, of two tokens and more."""
    start = 0
    for place, tag in enumerate(tags, 1):
        if tag in _ENDS or place == len(tags):
            if place - start > 1:
                yield range(start, place)
            start = place
