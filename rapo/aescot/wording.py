"""Wording: whether a sentence is worded like those of a kind, for what no rule finds.

- A linear model over tokens: those of one, two and three in a row, and of two with one between. The
  weights of what a sentence has are added to the bias; above 0 it is worded like the kind.
- `closing.json` is of sentences that close a critique with a judgement of the whole image, and of
  their words. `python -m bench.judge.closings --write` makes it. `leaks/likeness.py` has the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|[^\w\s]")


class Wording:
    """The model in a file, which is read at its first use."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def is_like(self, sentence: Sequence[str]) -> bool:
        """Whether a sentence is worded like the kind. One of no tokens is not."""
        weights, bias = self._model
        score = sum(map(weights.__getitem__, weights.keys() & parts(sentence)), bias)
        return len(sentence) > 0 and score > 0

    @cached_property
    def _model(self) -> tuple[dict[str, int], int]:
        model = json.loads(self.file.read_text(encoding="utf-8"))
        return model["weights"], model["bias"]


CLOSING = Wording(Path(__file__).with_name("closing.json"))


def word_tokens(sentence: str) -> list[str]:
    """The words and signs of a sentence with plain apostrophes."""
    return _WORD.findall(sentence.lower())


def parts(sentence: Sequence[str]) -> set[str]:
    """What a sentence has that a model knows a weight of. `_` is no token."""
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
