"""Conformal: intervals around predicted scores that hold a stated share of human scores.

- Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): the residuals, human score minus
  predicted score, of images that the model was not trained on give the interval of a new image.
  It may be asymmetric, because each end has a quantile of its own. Where the model is biased the
  score itself may lie outside its interval.
- Each end takes the rank of a finite sample, floor((n + 1) alpha / 2) of n residuals from its own
  side. The expected coverage is therefore at least the stated one, for any noise, as long as the
  new image is exchangeable with those of the calibration. It says nothing of other images.
- Mondrian: predicted scores are split into bins of about equal size, and each bin is calibrated
  on its own, so that the coverage holds in each. Few images make one bin. The interval jumps at a
  bin's border; between borders it moves with the score.
- The borders come from the predicted scores of the calibration, never from human scores.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rapo.arrays import Floats

#: No bin has fewer images than this, or else its ends would rest on one or two residuals each.
LEAST_IN_BIN = 60

# Ranks are whole numbers: rounding of (n + 1) alpha / 2 must not lower them.
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Bin:
    """The predicted scores from `start` to the next bin's: the interval of a score is from
    `score + low` to `score + high`. `n` images were in it."""

    start: float
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The intervals of one readout of one model, from `n` images with human scores. `bins` ascend;
    the first starts at 0."""

    coverage: float
    readout: str
    n: int
    bins: tuple[Bin, ...]

    def interval(self, score: float) -> tuple[float, float]:
        """The interval of a `score` in [0, 1], cut to [0, 1]."""
        place = bisect_right(self.bins, score, key=lambda one: one.start)
        one = self.bins[max(place - 1, 0)]
        return _cut(score + one.low), _cut(score + one.high)


def images_needed(coverage: float) -> int:
    """The fewest images that give an interval of this coverage, 19 for 90 %: each end needs a
    residual beyond it."""
    return math.ceil(2.0 / (1.0 - coverage) - _SLACK) - 1


def calibrate(scores: ArrayLike, targets: ArrayLike, readout: str, coverage: float = 0.9) -> Calibration | None:
    """The intervals for predicted `scores` `(n,)` and human scores `targets` `(n,)`, in [0, 1];
    None with fewer than `images_needed`.

    Raises `ValueError` for other shapes, values that are not finite, and a coverage outside (0, 1).
    """
    x, y = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not np.isfinite([x, y]).all():
        raise ValueError(f"scores of shape {x.shape} and targets of shape {y.shape}, or not all of them numbers")
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"a coverage of {coverage} is not between 0 and 1")
    needed = images_needed(coverage)
    if x.size < needed:
        return None
    starts = _starts(x, max(needed, LEAST_IN_BIN))
    places = np.searchsorted(starts, x, side="right") - 1
    bins = tuple(_bin(start, (y - x)[places == place], coverage) for place, start in enumerate(starts))
    return Calibration(coverage, readout, x.size, bins)


def _starts(scores: Floats, least: int) -> list[float]:
    """Where the bins start: of about equal size, at least `least`; equal scores share a bin."""
    values, counts = np.unique(scores, return_counts=True)
    upto = np.cumsum(counts)
    wanted = scores.size / max(1, scores.size // least)
    starts, taken = [0.0], 0
    for value, following, below in zip(values[:-1], values[1:], upto[:-1], strict=True):
        if below - taken >= wanted - 0.5 and scores.size - below >= least:
            starts.append(float(value + following) / 2.0)
            taken = below
    return starts


def _bin(start: float, residuals: Floats, coverage: float) -> Bin:
    ordered = np.sort(residuals)
    rank = math.floor((ordered.size + 1) * (1.0 - coverage) / 2.0 + _SLACK)
    return Bin(start, ordered.size, float(ordered[rank - 1]), float(ordered[-rank]))


def _cut(value: float) -> float:
    return min(1.0, max(0.0, value))
