"""Report tables: the rows of metrics.jsonl and of the predictions, read with checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.files.json_values import JsonRow, JsonValue, finite
from cluster.files.jsonl import parse_jsonl
from cluster.files.predictions import PredictionRow, read_predictions
from cluster.files.report import MODELS
from cluster.report.plots import Curve


@dataclass(frozen=True, slots=True)
class Metrics:
    """Rows by ascending step, and the count of lines that could not be read."""

    rows: list[JsonRow]
    unreadable: int

    def curve(self, key: str, label: str = "") -> Curve | None:
        """The values of a dotted key over the steps that have one, None where no step has."""
        points = [(float(step), value) for row in self.rows if (step := finite(row["step"])) is not None
                  and (value := finite(_at(row, key))) is not None]  # fmt: skip
        if not points:
            return None
        steps, values = np.asarray(points, dtype=np.float64).T
        return Curve(label, steps, values)


@dataclass(frozen=True, slots=True)
class Table:
    """The predictions of one model: all of them, and those with a score. Where there are none,
    `missing` says why."""

    rows: list[PredictionRow]
    missing: str = ""

    @property
    def points(self) -> list[tuple[float, float]]:
        """`(target, score)` of each prediction with a score."""
        return [(r.target, r.score) for r in self.rows if r.target is not None and r.score is not None]


def read_metrics(run_dir: Path) -> Metrics:
    """Read rapo/metrics.jsonl.

    A step may have several rows, one from training and one from validation, which complete each
    other. Where a resumed run has repeated a step, the last value counts.
    """
    try:
        data = (run_dir / "rapo" / "metrics.jsonl").read_bytes()
    except OSError:
        data = b""
    steps: dict[float, JsonRow] = {}
    unreadable = 0
    for row in parse_jsonl(data):
        step = None if row is None else finite(row.get("step"))
        if row is None or step is None:
            unreadable += 1
        else:
            steps[step] = _merged(steps.get(step, {}), row)
    return Metrics([steps[step] for step in sorted(steps)], unreadable)


def read_tables(run_dir: Path) -> dict[str, Table]:
    """The predictions by model."""
    return {model: _read_table(run_dir / "evaluate" / f"{model}.parquet") for model, _ in MODELS}


def _read_table(path: Path) -> Table:
    if not path.is_file():
        return Table([], f"evaluate/{path.name} is missing")
    try:
        table = Table(read_predictions(path))
    except (OSError, pa.ArrowException, TypeError):
        return Table([], f"evaluate/{path.name} is not readable")
    return table if table.points else Table(table.rows, "no valid prediction")


def _merged(old: JsonRow, new: JsonRow) -> JsonRow:
    merged = old | new
    for key in old.keys() & new.keys():
        before, after = old[key], new[key]
        if isinstance(before, dict) and isinstance(after, dict):
            merged[key] = before | after
    return merged


def _at(row: JsonRow, key: str) -> JsonValue:
    value: JsonValue = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
