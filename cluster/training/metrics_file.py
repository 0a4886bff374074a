"""Metrics file (`metrics.jsonl`): a row for each step and for each validation of a RAPO stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.files.json_values import finite
from cluster.files.jsonl import read_jsonl

METRICS = "metrics.jsonl"


def recorded_rows(out: Path, last_step: int) -> list[Mapping[str, object]]:
    """The rows up to `last_step`, in their order; torn lines are left out."""
    return [row for row in read_jsonl(out / METRICS) if (finite(row.get("step")) or 0) <= last_step]
