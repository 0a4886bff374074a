"""Coverage: the share of human scores that lie in the calibrated intervals of images that the
calibration did not see."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from typing_extensions import TypedDict

from rapo.algorithm.conformal import Calibration


class IntervalCoverage(TypedDict):
    """How the intervals of a model did on `n` images.

    `stated` is the coverage that they were calibrated to, with `calibration_n` images and the
    `readout`. `inside` human scores lie in their interval, a share of `measured` with the 95 %
    binomial interval (Clopper and Pearson) `measured_interval`. That interval knows of the chance
    in these images only, not of that in the calibration. `mean_width` is on [0, 1].
    """

    stated: float
    readout: str
    calibration_n: int
    n: int
    inside: int
    measured: float
    measured_interval: list[float]
    mean_width: float


def interval_coverage(calibration: Calibration, scores: ArrayLike, targets: ArrayLike) -> IntervalCoverage | None:
    """The coverage of predicted `scores` `(n,)` against human `targets` `(n,)`, both in [0, 1];
    None for no images."""
    x, y = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    if not x.size:
        return None
    low, high = np.array([calibration.interval(score) for score in x.tolist()]).T
    inside = int(((low <= y) & (y <= high)).sum())
    share = stats.binomtest(inside, x.size).proportion_ci(0.95)
    return {
        "stated": calibration.coverage,
        "readout": calibration.readout,
        "calibration_n": calibration.n,
        "n": x.size,
        "inside": inside,
        "measured": inside / x.size,
        "measured_interval": [float(share.low), float(share.high)],
        "mean_width": float((high - low).mean()),
    }
