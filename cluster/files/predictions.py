"""Predictions: what a model answered for each test image, in `evaluate/<model>.parquet`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.files.parquet import read_parquet, write_parquet
from rapo.records import ImageRecord, Prediction


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """`target` and `score` are on [0, 1]; without a `score` there is a `reason`. `path` is that of
    the image."""

    uid: str
    dataset: str
    path: str | None
    target: float | None
    score: float | None
    text: str
    reason: str | None
    readout: str
    std: float | None = None
    forced: bool = False

    @classmethod
    def of(cls, prediction: Prediction, record: ImageRecord) -> PredictionRow:
        return cls(
            uid=prediction.uid,
            dataset=prediction.dataset,
            path=None if record.path is None else str(record.path),
            target=prediction.target,
            score=prediction.score,
            text=prediction.text,
            reason=prediction.reason,
            readout=prediction.readout,
            std=prediction.std,
            forced=prediction.forced,
        )


def write_predictions(path: Path, rows: Sequence[PredictionRow]) -> None:
    write_parquet(path, [dataclasses.asdict(row) for row in rows])


def read_predictions(path: Path) -> list[PredictionRow]:
    """Raises `OSError` or `pyarrow.ArrowException` for a file that cannot be read, and `TypeError`
    for one with other columns."""
    return [PredictionRow(**row) for row in read_parquet(path)]
