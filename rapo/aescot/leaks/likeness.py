"""Likeness: whether a sentence is worded like a leak, for what no rule finds.

- The tokens of the model (`rapo.aescot.wording`) are tags (`rapo.aescot.leaks.words`).
- `likeness.json` holds the weights. `python -m bench.judge.likeness --write` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rapo.aescot.wording import Wording

LEAK = Wording(Path(__file__).with_name("likeness.json"))
_ENDS = frozenset(".!?;")


def like_a_leak(tags: Sequence[str]) -> range | None:
    """The tokens of the first sentence that is worded like a leak."""
    return next((each for each in sentences(tags) if LEAK.is_like(tags[each.start : each.stop])), None)


def sentences(tags: Sequence[str]) -> Iterator[range]:
    """The sentences of a text, of two tokens and more."""
    start = 0
    for place, tag in enumerate(tags, 1):
        if tag in _ENDS or place == len(tags):
            if place - start > 1:
                yield range(start, place)
            start = place
