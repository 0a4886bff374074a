"""Evaluation: measures a model on the test images, through the rollout fleet, and its calibrated
intervals with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.files.atomic import write_json
from cluster.files.predictions import PredictionRow, write_predictions
from cluster.pipeline.stages.calibration import VALIDATION, measured_interval
from cluster.rollout.fleet import Fleet
from rapo.config import Config
from rapo.metrics import Evaluation, evaluate_predictions
from rapo.records import ImageRecord, Prediction


def evaluate_model(
    config: Config,
    fleet: Fleet,
    records: Sequence[ImageRecord],
    name: str,
    out: Path,
    validation: Sequence[ImageRecord] | None = None,
) -> Evaluation:
    """Measure the model that the fleet holds; writes `out/<name>.json` and `out/<name>.parquet`.

    With `validation`, intervals are calibrated on these images, whose predictions go to
    `out/validation.parquet`, and measured on `records`.
    """
    predictions = _predict(config, fleet, records, out / f"{name}.parquet")
    result = evaluate_predictions(predictions, bootstrap=config.evaluate.bootstrap, seed=config.run.seed)
    if validation is not None:
        result["interval"] = measured_interval(
            config, _predict(config, fleet, validation, out / VALIDATION), predictions
        )
    write_json(out / f"{name}.json", result)
    return result


def _predict(config: Config, fleet: Fleet, records: Sequence[ImageRecord], path: Path) -> list[Prediction]:
    """Predict the first `evaluate.max_images` of `records`, and write that to `path`."""
    picked = list(records)[: config.evaluate.max_images]
    predictions = fleet.predictions(picked)
    rows = [PredictionRow.of(prediction, record) for prediction, record in zip(predictions, picked, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, rows)
    return predictions
