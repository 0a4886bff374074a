"""`rapo status`: what a run folder says of its run, for people and for machines.

Everything comes from files, so that it works while the run goes on, after it, and from another
terminal. Each may be missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from cluster.files.alerts import read_findings
from cluster.files.atomic import read_json
from cluster.files.jsonl import finite
from cluster.pipeline.runner import STAGES
from rapo.errors import RunFolderError

#: Rows of metrics.jsonl that times and rates are averaged over, and bytes of a file's end that hold
#: them.
_RECENT, _TAIL = 10, 256 * 1024


def run_facts(out: Path, now: float | None = None) -> dict[str, Any]:
    """Stages, driver, progress, fleet, faults and warnings of the run in `out`; plain values, for
    JSON.

    Raises `RunFolderError` where `out` is no run folder.
    """
    if not (out / "config.toml").is_file():
        raise RunFolderError(f"{out} is no run folder: it holds no config.toml.")
    now = time.time() if now is None else now
    state = _state(out)
    stages = [_stage(out, stage) for stage in STAGES]
    finished = all(stage["state"] == "finished" for stage in stages)
    return {
        "run": str(out),
        "driver": _driver(out, state, finished, now),
        "stages": stages,
        "rapo": _progress(out, state),
        "fleet": _fleet(state),
        "faults": tail(out / "rapo" / "faults.jsonl"),
        "warnings": read_findings(out),
    }


def tail(path: Path) -> list[dict[str, Any]]:
    """The rows at the end of a JSON-lines file, oldest first. Torn lines are passed over; a missing
    file has none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines[1:] if size > _TAIL else lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def driver_of(out: Path) -> int | None:
    """The process that works in `out`, None where there is none on this machine.

    It is the one that holds the folder's lock. Asking the kernel's table leaves the lock alone: to
    try it would keep out a run that starts at the same moment.
    """
    try:
        held = (out / ".lock").stat()
        table = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    device = f"{os.major(held.st_dev):02x}:{os.minor(held.st_dev):02x}:{held.st_ino}"
    for line in table:
        fields = line.split()
        if "FLOCK" in fields and device in fields and "->" not in fields:
            return int(fields[fields.index(device) - 1])
    return None


def _state(out: Path) -> dict[str, Any]:
    try:
        state = read_json(out / "rapo" / "state.json")
    except RunFolderError:
        return {}
    return state if isinstance(state, dict) else {}


def _driver(out: Path, state: Mapping[str, Any], finished: bool, now: float) -> dict[str, Any]:
    pid, updated = driver_of(out), finite(state.get("updated"))
    word = "running" if pid is not None else ("finished" if finished else "not running")
    return {"state": word, "pid": pid, "updated_s_ago": None if updated is None else max(0.0, now - updated)}


def _stage(out: Path, stage: str) -> dict[str, Any]:
    done = out / stage / "done.json"
    facts: dict[str, Any] = {"stage": stage, "state": "begun" if (out / stage).is_dir() else "to do", "seconds": None}
    if done.is_file():
        facts |= {"state": "finished", "seconds": finite(read_json(done).get("seconds"))}
    for row in reversed(tail(out / stage / "metrics.jsonl")):
        if "step" in row and "validation" not in row:
            return facts | {"step": row["step"], "metrics": _pick(row, "loss", "reward_mean")}
    return facts


def _progress(out: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    rows = tail(out / "rapo" / "metrics.jsonl")
    steps = [row for row in rows if "step" in row and "validation" not in row][-_RECENT:]
    measured = [row for row in rows if isinstance(row.get("validation"), dict)]
    last = steps[-1] if steps else {}
    timed = [row["seconds"] for row in steps if isinstance(row.get("seconds"), dict)]
    parts = {name: mean(float(row.get(name) or 0.0) for row in timed) for name in (timed[-1] if timed else {})}
    progress: dict[str, Any] = {
        "step": state.get("step", last.get("step")),
        "steps": state.get("steps"),
        "version": state.get("version"),
        "step_seconds": sum(parts.values()) if parts else None,
        "seconds": parts,
        "staleness": _pick(last, "staleness_mean", "staleness_worst"),
        "dropped": sum(int(row.get("dropped") or 0) for row in steps),
        "idle": {side: mean(row[f"idle_{side}"] for row in steps) for side in ("rollout", "learner")
                 if steps and all(finite(row.get(f"idle_{side}")) is not None for row in steps)},
        "metrics": _pick(last, "loss", "reward_mean", "parse_rate", "entropy"),
        "validation": [{"step": row.get("step"), **_pick(row["validation"], "srcc", "plcc")} for row in measured[-1:]],
        "window": state.get("window") or {},
    }  # fmt: skip
    left = [progress["step"], progress["steps"], progress["step_seconds"]]
    if all(finite(value) is not None for value in left):
        progress["seconds_left"] = max(0, progress["steps"] - progress["step"]) * progress["step_seconds"]
    return progress


def _fleet(state: Mapping[str, Any]) -> dict[str, Any]:
    fleet = state.get("fleet") if isinstance(state.get("fleet"), dict) else None
    if not fleet:
        return {"wanted": None, "workers": []}
    workers = []
    for worker in fleet.get("workers") or []:
        busy, tokens = finite(worker.get("busy_seconds")), finite(worker.get("tokens"))
        rate = tokens / busy if tokens is not None and busy else None
        workers.append({**worker, "tokens_per_second": rate})
    return {"wanted": fleet.get("wanted"), "workers": workers}


def _pick(row: Mapping[str, Any], *names: str) -> dict[str, float]:
    return {name: number for name in names if (number := finite(row.get(name))) is not None}


def to_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=2, ensure_ascii=False)


def states(workers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many workers are in each state, in order of first appearance."""
    counts: dict[str, int] = {}
    for worker in workers:
        counts[str(worker.get("state"))] = counts.get(str(worker.get("state")), 0) + 1
    return counts
