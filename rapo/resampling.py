"""Resampling: bootstrap resamples of points as counts, and correlations under such counts.

A resample of `n` points is a row of counts `(n,)`, so that one sort of the values serves all
resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rapo.arrays import Floats

#: Coverage of the percentile intervals.
CONFIDENCE = 0.95

#: Scores lie in [0, 1]: values that differ by less than this differ by rounding only, and count as
#: constant.
ROUNDING = 1e-12

# Resamples are made in blocks of about this many elements, so that memory does not grow with their
# number.
_BLOCK_ELEMENTS = 1 << 20


def resampled_counts(n: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Resamples of `n` points with replacement, in blocks of counts `(rows, n)`."""
    rows = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        sampled = rng.integers(0, n, (block, n)) + np.arange(block)[:, None] * n
        yield np.bincount(sampled.ravel(), minlength=block * n).reshape(block, n).astype(np.float64)


class Ranker:
    """Mean ranks within resamples, which are given as counts per point, from one sort of `values`
    `(n,)`."""

    def __init__(self, values: Floats) -> None:
        _, self._tie = np.unique(values, return_inverse=True)
        order = np.argsort(self._tie, kind="stable")
        self._order = order
        self._starts = np.flatnonzero(np.diff(self._tie[order], prepend=-1))

    def __call__(self, counts: Floats) -> Floats:
        """Ranks `(rows, n)` for counts `(rows, n)`, centred and scaled to about [-0.5, 0.5]."""
        per_tie = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        upto = np.cumsum(per_tie, axis=1)
        ranks = (upto - (per_tie - 1.0) / 2.0)[:, self._tie]
        return ranks / counts.shape[1] - 0.5


def weighted_correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's correlation `(rows,)` under each row of `weights` `(rows, n)`; x and y are `(n,)`
    or `(rows, n)`. It is NaN where a side is constant, and where a row of weights is 0."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), ROUNDING)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    xx, yy, xy = (np.einsum("rn,rn,rn->r", weights, a, b) for a, b in ((x, x), (y, y), (x, y)))
    constant = (xx <= ROUNDING) | (yy <= ROUNDING)
    return np.where(constant, np.nan, xy / np.sqrt(np.where(constant, 1.0, xx * yy)))


def percentile_interval(blocks: Sequence[Floats]) -> list[float] | None:
    """`[low, high]` of a correlation's resampled values, given in blocks `(rows,)`; None where none
    is finite."""
    found = interval(np.concatenate(blocks))
    return None if found is None else [min(1.0, max(-1.0, bound)) for bound in found]


def interval(values: Floats) -> list[float] | None:
    """The percentile interval of 95 % of resampled values; None where none is finite, because a
    resample may be constant."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    tail = (1.0 - CONFIDENCE) / 2.0
    return [float(bound) for bound in np.quantile(finite, (tail, 1.0 - tail))]
