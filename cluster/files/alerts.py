"""What the watch over a run has found, as it stands in the run folder: `rapo/findings.jsonl`, a
finding a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.files.jsonl import finite

FINDINGS = "findings.jsonl"


def read_findings(run_dir: Path) -> list[dict[str, Any]]:
    """`step`, `kind`, `text`, `values` and `fatal` of each finding, by ascending step; empty where
    the file is missing.

    A resumed run repeats steps: of one step and kind, the last line counts. Lines that are torn or
    no finding are passed over. Texts are made fit for a terminal: one line, without control
    characters.
    """
    try:
        lines = (run_dir / "rapo" / FINDINGS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for line in lines:
        finding = _finding(line)
        if finding is not None:
            found[finding["step"], finding["kind"]] = finding
    return sorted(found.values(), key=lambda finding: finding["step"])


def name(kind: str) -> str:
    """A kind as people read it: `entropy collapse`."""
    return kind.replace("_", " ")


def _finding(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    step, kind, text, values = finite(row.get("step")), row.get("kind"), row.get("text"), row.get("values")
    if step is None or not isinstance(kind, str) or not isinstance(text, str):
        return None
    return {
        "step": int(step),
        "kind": _printable(kind),
        "text": _printable(text),
        "values": values if isinstance(values, dict) else {},
        "fatal": row.get("fatal") is True,
    }


def _printable(text: str) -> str:
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
