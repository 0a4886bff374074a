"""Reader: tells a score from a text alone, by a ridge regression over its words.

- It is fitted once on texts with human scores, and frozen: it never sees a model that it reads.
- A model whose scores it cannot tell gives reasons that are not those of its scores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import lsqr
from typing_extensions import TypedDict

from rapo.arrays import Floats
from rapo.metrics import defined, srcc
from rapo.resampling import Ranker, percentile_interval, resampled_counts, weighted_correlation

#: Fewer texts than this teach no reader.
MIN_TEXTS = 30

_WORD = re.compile(r"\w+")
_MAX_FEATURES = 20_000
#: The ridge's penalty on squared weights, where features are 0 or 1. It is about one text's worth
#: of doubt for each word.
_PENALTY = 1.0


class Consistency(TypedDict):
    """`srcc` of a model's scores and the reader's scores of its rationales, with its interval; None
    without a reader, or where the scores are constant. It is 0 where the rationales read alike.
    `texts` is the number of texts that the reader has learned from."""

    srcc: float | None
    interval: list[float] | None
    texts: int


class Reader:
    """A ridge regression of scores on the word uni- and bigrams of texts, present or absent."""

    def __init__(self, texts: Sequence[str], scores: ArrayLike) -> None:
        """Fit on `texts` with `scores` `(n,)` in [0, 1]."""
        target = np.asarray(scores, np.float64)
        self.texts = len(texts)
        seen = Counter(gram for text in texts for gram in _grams(text))
        # Ties are broken by the word, so that the order of the texts has no effect.
        common = sorted(seen, key=lambda gram: (-seen[gram], gram))[:_MAX_FEATURES]
        self._columns = {gram: column for column, gram in enumerate(common)}
        self._mean = float(target.mean())
        self._weights: Floats = lsqr(self._features(texts), target - self._mean, damp=np.sqrt(_PENALTY))[0]

    def read(self, texts: Sequence[str]) -> Floats:
        """The score `(n,)` of each text."""
        return self._mean + self._features(texts) @ self._weights

    def _features(self, texts: Sequence[str]) -> sparse.csr_array:
        columns, starts = [], [0]
        for text in texts:
            columns += sorted(self._columns[gram] for gram in _grams(text) if gram in self._columns)
            starts.append(len(columns))
        return sparse.csr_array((np.ones(len(columns)), columns, starts), (len(texts), len(self._columns)))


def fit_reader(texts: Sequence[str], scores: ArrayLike) -> Reader | None:
    """A reader of `texts` with their human scores `(n,)`; None for fewer than `MIN_TEXTS`."""
    return Reader(texts, scores) if len(texts) >= MIN_TEXTS else None


def consistency(
    reader: Reader | None, rationales: Sequence[str], scores: ArrayLike, *, bootstrap: int = 0, seed: int = 0
) -> Consistency:
    """How well a frozen reader tells the scores `(n,)` of a model from its rationales.

    The interval is a percentile interval of 95 % over `bootstrap` resamples, None with 0.
    """
    if reader is None:
        return {"srcc": None, "interval": None, "texts": 0}
    y = np.asarray(scores, np.float64)
    x = reader.read(rationales)
    result: Consistency = {"srcc": srcc(x, y), "interval": None, "texts": reader.texts}
    if defined(x, y) and bootstrap:
        rank_x, rank_y = Ranker(x), Ranker(y)
        blocks = [weighted_correlation(rank_x(c), rank_y(c), c)
                  for c in resampled_counts(y.size, bootstrap, np.random.default_rng(seed))]  # fmt: skip
        result["interval"] = percentile_interval(blocks)
    elif result["srcc"] is None and defined(y, y):
        result["srcc"] = 0.0
    return result


def _grams(text: str) -> set[str]:
    words = _WORD.findall(text.lower())
    return {*words, *(f"{a} {b}" for a, b in _pairs(words))}


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(words, words[1:], strict=False)
