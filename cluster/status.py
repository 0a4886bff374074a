"""What a run folder says of its run."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.files import read_json
from cluster.findings import name, read_findings
from cluster.pipeline import STAGES
from rapo.errors import RunFolderError

#: Of the warnings, the last ones say how the run stands; all are in report.html.
_WARNINGS = 3


def show_status(out: Path) -> None:
    """Print a row per stage, and the last warnings. Raises `RunFolderError` where `out` is no run folder."""
    if not (out / "config.toml").is_file():
        raise RunFolderError(f"{out} is no run folder: it holds no config.toml.")
    table = Table(title=str(out), title_justify="left")
    for column in ("stage", "state", "seconds", "last step"):
        table.add_column(column)
    for stage in STAGES:
        done = out / stage / "done.json"
        seconds = f"{read_json(done)['seconds']:.1f}" if done.is_file() else ""
        state = "finished" if done.is_file() else ("begun" if (out / stage).is_dir() else "to do")
        table.add_row(stage, state, seconds, _last_step(out / stage / "metrics.jsonl"))
    console = Console()
    console.print(table)
    found = read_findings(out)
    if len(found) > _WARNINGS:
        console.print(f"{len(found)} warnings, the last {_WARNINGS}:")
    for finding in found[-_WARNINGS:]:
        line = Text(f"step {finding['step']}  {name(finding['kind'])}: ", "yellow")
        # Not broken at the width of the terminal, so that it can be copied and searched for.
        console.print(line.append(finding["text"], "default"), soft_wrap=True)


def _last_step(path: Path) -> str:
    if not path.is_file():
        return ""
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:  # a line that is being written
            continue
        shown = {k: row[k] for k in ("loss", "reward_mean") if isinstance(row.get(k), float)}
        return f"{row['step']}  " + "  ".join(f"{k} {v:.3f}" for k, v in shown.items())
    return ""
