"""Likeness: whether a sentence is worded like a leak, for what no rule finds.

- A linear model over tags (`rapo.aescot.leaks.words`): those of one, two and three tokens in a row,
  and of two with one between. The weights of what a sentence has are added to the bias; above 0 it
  is worded like a leak.
- `likeness.json` holds the weights. `python -m bench.judge.likeness --write` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

WEIGHTS = Path(__file__).with_name("likeness.json")
_ENDS = frozenset(".!?;")


def like_a_leak(tags: Sequence[str]) -> range | None:
    """The tokens of the first sentence that is worded like a leak."""
    weights, bias = _weights()
    for sentence in sentences(tags):
        if sum(map(weights.__getitem__, weights.keys() & parts(tags[sentence.start : sentence.stop])), bias) > 0:
            return sentence
    return None


def sentences(tags: Sequence[str]) -> Iterator[range]:
    """The sentences of a text, of two tokens and more."""
    start = 0
    for place, tag in enumerate(tags, 1):
        if tag in _ENDS or place == len(tags):
            if place - start > 1:
                yield range(start, place)
            start = place


def parts(sentence: Sequence[str]) -> set[str]:
    """What a sentence has that the model knows a weight of. `_` is no token."""
    found = set(sentence)
    one, two = "", "^"
    for three in (*sentence, "$"):
        pair = f"{two} {three}"
        found.add(pair)
        if one:
            found.add(f"{one} {pair}")
            found.add(f"{one} _ {three}")
        one, two = two, three
    return found


@cache
def _weights() -> tuple[dict[str, int], int]:
    model = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return model["weights"], model["bias"]
