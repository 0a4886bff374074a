"""Wording: whether a sentence is worded like those of a kind, where no rule decides.

- A linear model over phrases: tokens, those of two and three in a row, those of two with one
  between, and the stems of words; of aspects over words and stems alone. The weights of what a
  sentence has are added to the bias.
- `wordings/` has a file for each kind. `python -m bench.judge.wordings --write` makes them of the
  texts in `bench/judge`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence, Set
from functools import cached_property
from pathlib import Path

#: The weights of a file are whole numbers, of so many to one of log-odds.
SCALE = 100
#: Aspects of beauty that a critique may speak of.
ASPECTS = ("light", "color", "composition", "technique", "mood")

_FOLDER = Path(__file__).with_name("wordings")
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[.!?;])[\"'”’)]*\s+|\n+")
_STEM = 5  # letters of a longer word


class Wording:
    """The model of one kind of sentence, whose file is read at its first use."""

    def __init__(self, kind: str) -> None:
        self.file = _FOLDER / f"{kind}.json"

    def score(self, found: Set[str]) -> float:
        """Log-odds, above the kind's threshold, that a sentence with these phrases (or other
        features that the model was fitted to) is of the kind."""
        weights, bias = self._model
        return sum(map(weights.__getitem__, weights.keys() & found), bias) / SCALE

    @cached_property
    def _model(self) -> tuple[dict[str, int], int]:
        model = json.loads(self.file.read_text(encoding="utf-8"))
        return model["weights"], model["bias"]


#: A sentence that reveals a score; its tokens are tags (`rapo.aescot.leaks.words`).
LEAK = Wording("leak")
#: A last sentence that judges the whole image.
CLOSING = Wording("closing")
#: A sentence of an answer that declines to write a critique.
REFUSES = Wording("refusal")
#: A sentence that speaks of an aspect (features of `rapo.aescot.structure.coverage`).
SPEAKS_OF = {aspect: Wording(aspect) for aspect in ASPECTS}
#: A whole text that speaks of one aspect alone (likewise).
ONE_SIDED = Wording("one_sided")


def sentences_of(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.split(text) if sentence.strip()]


def word_tokens(sentence: str) -> list[str]:
    """The words and signs of a sentence with plain apostrophes."""
    return _WORD.findall(sentence.lower())


def stems(tokens: Sequence[str]) -> set[str]:
    """The beginnings of the longer words: `~sharp` of "sharpened"."""
    return {f"~{token[:_STEM]}" for token in tokens if len(token) > _STEM and token.islower()}


def phrases(tokens: Sequence[str]) -> set[str]:
    """What a sentence has that a model knows a weight of. `_` is no token."""
    found = {*tokens, *stems(tokens)}
    one, two = "", "^"
    for three in (*tokens, "$"):
        pair = f"{two} {three}"
        found.add(pair)
        if one:
            found.add(f"{one} {pair}")
            found.add(f"{one} _ {three}")
        one, two = two, three
    return found
