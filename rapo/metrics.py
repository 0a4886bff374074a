"""Metrics: the agreement of predictions with human scores, with bootstrap intervals.

- PLCC is taken on the scores as they are, without fitting a logistic curve first.
- An undefined value (fewer than three valid predictions, or a constant side) is None, never NaN, so
  that every result is valid JSON.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NotRequired

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from typing_extensions import TypedDict

from rapo.algorithm.coverage import IntervalCoverage
from rapo.arrays import Floats
from rapo.errors import DataError
from rapo.records import Prediction

#: Coverage of the bootstrap's percentile intervals.
CONFIDENCE = 0.95

#: A correlation of fewer points is not defined.
MIN_POINTS = 3

# Scores lie in [0, 1]: values that differ by less than this differ by rounding only, and count as
# constant.
_ROUNDING = 1e-12

# Resamples are made in blocks of about this many elements, so that memory does not grow with their
# number.
_BLOCK_ELEMENTS = 1 << 20


class Evaluation(TypedDict):
    """The metrics of a set of predictions, as plain values that JSON holds.

    Correlations, errors and spreads (population sd) are over the valid predictions. `parse_rate` is
    their share of all `n`; `invalid` counts the others by reason. `bias` is the mean of prediction
    minus target. The intervals are `[low, high]` of 95 %. `interval` is of the model that is
    exported only: None where too few images with human scores were there to calibrate on.
    """

    srcc: float | None
    plcc: float | None
    krcc: float | None
    mae: float | None
    rmse: float | None
    bias: float | None
    predicted_sd: float | None
    target_sd: float | None
    parse_rate: float | None
    n: int
    n_valid: int
    invalid: dict[str, int]
    srcc_interval: list[float] | None
    plcc_interval: list[float] | None
    interval: NotRequired[IntervalCoverage | None]


def evaluate_predictions(predictions: Sequence[Prediction], *, bootstrap: int = 1000, seed: int = 0) -> Evaluation:
    """All metrics of a set of predictions.

    The intervals are percentile intervals of `bootstrap` resamples, seeded by `seed`; they are None
    with `bootstrap` 0. Raises `DataError` if a prediction has no target.
    """
    scores, targets = [], []
    invalid: Counter[str] = Counter()
    for item in predictions:
        if item.target is None:
            raise DataError(f"{item.uid!r} has no human score to compare its prediction with")
        if item.score is None or not math.isfinite(item.score):
            invalid[item.reason or "not_a_number"] += 1
        else:
            scores.append(item.score)
            targets.append(item.target)
    x, y = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    n, n_valid = len(predictions), len(scores)
    error = x - y
    srcc_interval, plcc_interval = _intervals(x, y, bootstrap, np.random.default_rng(seed))
    return {
        "srcc": srcc(x, y),
        "plcc": plcc(x, y),
        "krcc": krcc(x, y),
        "mae": float(np.abs(error).mean()) if n_valid else None,
        "rmse": float(np.sqrt(np.square(error).mean())) if n_valid else None,
        "bias": float(error.mean()) if n_valid else None,
        "predicted_sd": float(x.std()) if n_valid else None,
        "target_sd": float(y.std()) if n_valid else None,
        "parse_rate": n_valid / n if n else None,
        "n": n,
        "n_valid": n_valid,
        "invalid": dict(sorted(invalid.items())),
        "srcc_interval": srcc_interval,
        "plcc_interval": plcc_interval,
    }


def plcc(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's linear correlation of two `(n,)` arrays, or None where it is not defined."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not _defined(a, b):
        return None
    a, b = a - a.mean(), b - b.mean()
    value = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return min(1.0, max(-1.0, value))


def srcc(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation (ties take their mean rank), or None where it is not defined."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return plcc(stats.rankdata(a), stats.rankdata(b)) if _defined(a, b) else None


def krcc(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's tau-b, or None where it is not defined."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not _defined(a, b):
        return None
    value = float(stats.kendalltau(a, b).statistic)
    return value if math.isfinite(value) else None


def _defined(x: Floats, y: Floats) -> bool:
    return x.size >= MIN_POINTS and bool(np.ptp(x) > _ROUNDING) and bool(np.ptp(y) > _ROUNDING)


def _intervals(
    x: Floats, y: Floats, resamples: int, rng: np.random.Generator
) -> tuple[list[float] | None, list[float] | None]:
    """The bootstrap intervals of SRCC and PLCC of two `(n,)` arrays."""
    if not resamples or not _defined(x, y):
        return None, None
    n = x.size
    rows = max(1, _BLOCK_ELEMENTS // n)
    rank_x, rank_y = _Ranker(x), _Ranker(y)
    # Correlation does not change under shift and scale; with standardised values the sums below are
    # well conditioned.
    zx, zy = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    plccs, srccs = [], []
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        sampled = rng.integers(0, n, (block, n)) + np.arange(block)[:, None] * n
        counts = np.bincount(sampled.ravel(), minlength=block * n).reshape(block, n).astype(np.float64)
        plccs.append(_weighted_correlation(zx, zy, counts))
        srccs.append(_weighted_correlation(rank_x(counts), rank_y(counts), counts))
    return _percentiles(srccs), _percentiles(plccs)


class _Ranker:
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


def _weighted_correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's correlation `(rows,)` under each row of `weights` `(rows, n)`; x and y are `(n,)`
    or `(rows, n)`. It is NaN where a side is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    xx, yy, xy = (np.einsum("rn,rn,rn->r", weights, a, b) for a, b in ((x, x), (y, y), (x, y)))
    constant = (xx <= _ROUNDING) | (yy <= _ROUNDING)
    return np.where(constant, np.nan, xy / np.sqrt(np.where(constant, 1.0, xx * yy)))


def _percentiles(blocks: list[Floats]) -> list[float] | None:
    values = np.concatenate(blocks)
    values = values[np.isfinite(values)]  # a resample may be constant
    if not values.size:
        return None
    tail = (1.0 - CONFIDENCE) / 2.0
    return [float(value) for value in np.clip(np.quantile(values, (tail, 1.0 - tail)), -1.0, 1.0)]
