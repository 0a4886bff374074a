"""Evaluation: measures a model on the test images, through the rollout fleet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.files.atomic import write_json
from cluster.files.predictions import PredictionRow, write_predictions
from cluster.rollout.fleet import Fleet
from rapo.config import Config
from rapo.metrics import Evaluation, evaluate_predictions
from rapo.records import ImageRecord


def evaluate_model(config: Config, fleet: Fleet, records: Sequence[ImageRecord], name: str, out: Path) -> Evaluation:
    """Measure the model that the fleet holds; writes `out/<name>.json` and `out/<name>.parquet`."""
    picked = list(records)[: config.evaluate.max_images]
    predictions = fleet.predictions(picked)
    result = evaluate_predictions(predictions, bootstrap=config.evaluate.bootstrap, seed=config.run.seed)
    out.mkdir(parents=True, exist_ok=True)
    rows = [PredictionRow.of(prediction, record) for prediction, record in zip(predictions, picked, strict=True)]
    write_predictions(out / f"{name}.parquet", rows)
    write_json(out / f"{name}.json", result)
    return result
