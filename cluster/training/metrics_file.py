"""Metrics file (`metrics.jsonl`): a row for each step and for each validation of a RAPO stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

METRICS = "metrics.jsonl"


def recorded_rows(out: Path, last_step: int) -> Iterator[Mapping[str, object]]:
    """The rows up to `last_step`, in their order; a torn last line is left out."""
    path = out / METRICS
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("step", 0) <= last_step:
            yield row
