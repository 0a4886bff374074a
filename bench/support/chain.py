"""Chain: whole runs of configs/cpu.toml, each made once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "cpu.toml"
_LIMIT_S = 3600


def chain_report(out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The report of the run in the folder `out`, which is made where it is missing or not complete.
    What it prints is in a log beside the folder."""
    if not _complete(out):
        command = [sys.executable, "-m", "rapo", "run", str(_CONFIG), "--out", str(out)]
        command += [part for override in overrides for part in ("--set", override)]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_name(f"{out.name}.log").open("wb") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, timeout=_LIMIT_S)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def scores(report: dict[str, Any]) -> dict[str, Any]:
    """What RAPO did to the test SRCC. A correlation that is not defined is None, and so is a
    difference with it."""
    before, after = report["evaluate"]["coldstart"]["srcc"], report["evaluate"]["rapo"]["srcc"]
    interval = report["evaluate"]["rapo"]["srcc_interval"]
    return {
        "SRCC before": before,
        "SRCC": after,
        "95 %": interval and "{:.3f} to {:.3f}".format(*interval),
        "gain": None if before is None or after is None else after - before,
    }


def _complete(out: Path) -> bool:
    try:
        return json.loads((out / "report.json").read_text(encoding="utf-8"))["served"] is not None
    except (OSError, ValueError, KeyError):
        return False
