"""Metrics: the agreement of predictions with human scores, with bootstrap intervals.

- PLCC is taken on the scores as they are, without fitting a logistic curve first.
- A pair with a NaN is left out, as SciPy does with `nan_policy="omit"`.
- An undefined value (fewer than two pairs, or a constant side) is None, never NaN and never 0, so
  that every result is valid JSON. `why_undefined` says why.
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
from rapo.resampling import ROUNDING, Ranker, percentile_interval, resampled_counts, weighted_correlation

#: A correlation of fewer points is not defined.
MIN_POINTS = 2


class Evaluation(TypedDict):
    """The metrics of a set of predictions, as plain values that JSON holds.

    Correlations, errors and spreads (population sd) are over the valid predictions. `parse_rate` is
    their share of all `n`; `invalid` counts the others by reason. `bias` is the mean of prediction
    minus target. The intervals are `[low, high]` of 95 %. `interval` is of the model that is
    exported only: None where too few images with human scores were there to calibrate on.

    Resolution: `spread` is `predicted_sd / target_sd`, None where the targets are constant;
    `distinct_scores` counts the different scores after rounding to two decimals, those of an
    answer, because an expectation is never the same twice.
    """

    srcc: float | None
    plcc: float | None
    krcc: float | None
    mae: float | None
    rmse: float | None
    bias: float | None
    predicted_sd: float | None
    target_sd: float | None
    spread: float | None
    distinct_scores: int
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
        if item.target is None or not math.isfinite(item.target):
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
        "spread": float(x.std() / y.std()) if n_valid and not _constant(y) else None,
        "distinct_scores": np.unique(x.round(2)).size,
        "parse_rate": n_valid / n if n else None,
        "n": n,
        "n_valid": n_valid,
        "invalid": dict(sorted(invalid.items())),
        "srcc_interval": srcc_interval,
        "plcc_interval": plcc_interval,
    }


def plcc(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's linear correlation of two `(n,)` arrays, or None where it is not defined."""
    a, b = _pairs(x, y)
    if not defined(a, b):
        return None
    a, b = a - a.mean(), b - b.mean()
    value = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return min(1.0, max(-1.0, value))


def srcc(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation (ties take their mean rank), or None where it is not defined."""
    a, b = _pairs(x, y)
    return plcc(stats.rankdata(a), stats.rankdata(b)) if defined(a, b) else None


def krcc(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's tau-b, or None where it is not defined."""
    a, b = _pairs(x, y)
    if not defined(a, b):
        return None
    value = float(stats.kendalltau(a, b).statistic)
    return value if math.isfinite(value) else None


def defined(x: Floats, y: Floats) -> bool:
    """Whether two `(n,)` arrays have a correlation: enough points, and no side constant."""
    return why_undefined(x, y) is None


def why_undefined(x: Floats, y: Floats) -> str | None:
    """Why predictions `x` `(n,)` and human scores `y` `(n,)` have no correlation; None where they
    have one."""
    if x.size < MIN_POINTS:
        return f"{x.size or 'no'} image{'' if x.size == 1 else 's'} with a score, where two are needed"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "a score is infinite"
    if _constant(x):
        return "all predictions are equal"
    return "all human scores are equal" if _constant(y) else None


def _constant(x: Floats) -> bool:
    """Whether values differ by rounding only."""
    return bool(np.ptp(x) <= ROUNDING * np.abs(x).max())


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = ~(np.isnan(a) | np.isnan(b))
    return a[known], b[known]


def _intervals(
    x: Floats, y: Floats, resamples: int, rng: np.random.Generator
) -> tuple[list[float] | None, list[float] | None]:
    """The bootstrap intervals of SRCC and PLCC of two `(n,)` arrays."""
    if not resamples or not defined(x, y):
        return None, None
    rank_x, rank_y = Ranker(x), Ranker(y)
    # Correlation does not change under shift and scale; with standardised values the sums below are
    # well conditioned.
    zx, zy = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    plccs, srccs = [], []
    for counts in resampled_counts(x.size, resamples, rng):
        plccs.append(weighted_correlation(zx, zy, counts))
        srccs.append(weighted_correlation(rank_x(counts), rank_y(counts), counts))
    return percentile_interval(srccs), percentile_interval(plccs)
