"""Alerts of a run, read back from `rapo/alerts.jsonl`, which has one a line.

- A resumed run repeats steps: of one step and kind, the last line counts.
- A line that is torn, or is no alert, is passed over.
- Texts are fit for a terminal: one line, without control characters.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from cluster.files.json_values import JsonRow, finite
from cluster.files.jsonl import read_jsonl

ALERTS = "alerts.jsonl"


class AlertRow(TypedDict):
    """`rapo.algorithm.alert_kinds.Alert` as it is read back; a figure that was not finite is
    None."""

    step: int
    kind: str
    text: str
    values: JsonRow
    fatal: bool


def read_alerts(run_dir: Path) -> list[AlertRow]:
    """The alerts by ascending step; empty where the file is missing."""
    found: dict[tuple[int, str], AlertRow] = {}
    for row in read_jsonl(run_dir / "rapo" / ALERTS):
        step, kind, text, values = finite(row.get("step")), row.get("kind"), row.get("text"), row.get("values")
        if step is not None and isinstance(kind, str) and isinstance(text, str):
            found[int(step), kind] = AlertRow(
                step=int(step),
                kind=printable(kind),
                text=printable(text),
                values=values if isinstance(values, dict) else {},
                fatal=row.get("fatal") is True,
            )
    return sorted(found.values(), key=lambda alert: alert["step"])


def kind_name(kind: str) -> str:
    """A kind as people read it: `entropy collapse`."""
    return kind.replace("_", " ")


def printable(text: str) -> str:
    """`text` as one line without control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
