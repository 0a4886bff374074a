"""Calibration of a run: intervals of the selected model from its validation predictions.

- The model has been selected on the same images, though not trained on them. Their residuals are
  therefore a little too small, by as much as selection gained; the test images measure it.
- A prediction without a score has no residual, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cluster.files.predictions import read_predictions
from rapo.algorithm.conformal import Calibration, calibrate
from rapo.algorithm.coverage import IntervalCoverage, interval_coverage
from rapo.config import Config
from rapo.errors import DataError

#: The validation predictions of the selected model, beside those of the test images.
VALIDATION = "validation.parquet"


class Scored(Protocol):
    """A prediction, in memory or from a file."""

    @property
    def score(self) -> float | None: ...
    @property
    def target(self) -> float | None: ...
    @property
    def readout(self) -> str: ...


def read_calibration(config: Config, evaluate: Path) -> Calibration | None:
    """The calibration from what the stage `evaluate` left in its folder; None where it left no
    validation predictions, or too few with a score."""
    path = evaluate / VALIDATION
    return _calibrated(config, read_predictions(path)) if path.is_file() else None


def measured_interval(config: Config, validation: Sequence[Scored], test: Sequence[Scored]) -> IntervalCoverage | None:
    """The coverage on `test` of intervals calibrated on `validation`; None with too few scores in
    one of them."""
    calibration = _calibrated(config, validation)
    return None if calibration is None else interval_coverage(calibration, *_pairs(test))


def _calibrated(config: Config, predictions: Sequence[Scored]) -> Calibration | None:
    readouts = sorted({item.readout for item in predictions})
    if len(readouts) > 1:
        raise DataError(
            f"the validation predictions are of several readouts ({', '.join(readouts)}), and an interval is of one. "
            "Run the stage evaluate again."
        )
    if not readouts:
        return None
    return calibrate(*_pairs(predictions), readouts[0], config.evaluate.interval_coverage)


def _pairs(predictions: Sequence[Scored]) -> tuple[list[float], list[float]]:
    pairs = [(item.score, item.target) for item in predictions if item.score is not None and item.target is not None]
    return [score for score, _ in pairs], [target for _, target in pairs]
