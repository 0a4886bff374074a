"""RunStatus: what a run folder tells of its run, for `rapo status`.

- Everything comes from files, so that it is there during the run, after it, and on any machine
  that sees the folder.
- A file that is missing or damaged costs only the facts in it: they are None or empty.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Literal

from cluster.files.alerts import AlertRow, read_alerts
from cluster.files.atomic import read_json
from cluster.files.json_values import JsonRow, JsonValue, finite, to_json_value
from cluster.files.jsonl import read_jsonl
from cluster.files.run_state import RunState, whole
from cluster.pipeline.runner import STAGES
from rapo.errors import RunFolderError

#: Rows of metrics.jsonl that times and rates are averaged over, and bytes of a file's end that hold
#: them.
_RECENT, _TAIL = 10, 256 * 1024


@dataclass(frozen=True, slots=True)
class Driver:
    """The process that runs the stages. `updated_s_ago` is the age of its last state."""

    state: Literal["running", "finished", "not running"]
    pid: int | None
    updated_s_ago: float | None


@dataclass(frozen=True, slots=True)
class StageStatus:
    """`seconds` are those of a finished stage, `step` and `metrics` its last ones in
    metrics.jsonl."""

    stage: str
    state: Literal["to do", "begun", "finished"]
    seconds: float | None = None
    step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validation:
    step: int | None
    srcc: float | None
    plcc: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The RAPO stage. `seconds` are the parts of a step, `step_seconds` their sum; both, `idle` and
    `dropped` are over the last steps. `validation` holds the last result, if any."""

    step: int | None
    steps: int | None
    version: int | None
    step_seconds: float | None
    seconds: dict[str, float]
    seconds_left: float | None
    staleness: dict[str, float]
    dropped: int
    idle: dict[str, float]
    metrics: dict[str, float]
    validation: list[Validation]
    window: dict[str, int]


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The rollout workers, each as in `RunState`, with `tokens_per_second`."""

    wanted: int | None
    workers: list[JsonRow]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """`faults` and `alerts` are rows of the files of these names, oldest first."""

    run: str
    driver: Driver
    stages: list[StageStatus]
    rapo: Progress
    fleet: FleetStatus
    faults: list[JsonRow]
    alerts: list[AlertRow]

    def to_json(self) -> str:
        return json.dumps(to_json_value(self, "status"), indent=2, ensure_ascii=False)


def run_status(out: Path, now: float | None = None) -> RunStatus:
    """The status of the run in `out`. Raises `RunFolderError` where `out` is no run folder."""
    if not (out / "config.toml").is_file():
        raise RunFolderError(f"{out} is no run folder: it holds no config.toml.")
    state = _state(out)
    stages = [_stage(out, stage) for stage in STAGES]
    finished = all(stage.state == "finished" for stage in stages)
    return RunStatus(
        run=str(out),
        driver=_driver(out, state, finished, time.time() if now is None else now),
        stages=stages,
        rapo=_progress(out, state),
        fleet=FleetStatus(state.wanted, [row | {"tokens_per_second": _rate(row)} for row in state.workers]),
        faults=_last_rows(out / "rapo" / "faults.jsonl"),
        alerts=read_alerts(out),
    )


def driver_pid(out: Path) -> int | None:
    """The process that works in `out`, None where there is none on this machine.

    It is the one that holds the folder's lock. The kernel's table of locks is read, because to try
    the lock would keep out a run that starts at the same moment.
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


def _last_rows(path: Path) -> list[JsonRow]:
    return read_jsonl(path, last_bytes=_TAIL)


def _state(out: Path) -> RunState:
    try:
        return RunState.read(read_json(out / "rapo" / "state.json"))
    except RunFolderError:
        return RunState()


def _driver(out: Path, state: RunState, finished: bool, now: float) -> Driver:
    pid = driver_pid(out)
    age = None if state.updated is None else max(0.0, now - state.updated)
    return Driver("running" if pid is not None else "finished" if finished else "not running", pid, age)


def _stage(out: Path, stage: str) -> StageStatus:
    done = out / stage / "done.json"
    if done.is_file():
        status = StageStatus(stage, "finished", finite(read_json(done).get("seconds")))
    else:
        status = StageStatus(stage, "begun" if (out / stage).is_dir() else "to do")
    last = next((row for row in reversed(_last_rows(out / stage / "metrics.jsonl")) if _is_step(row)), None)
    if last is None:
        return status
    return dataclasses.replace(status, step=whole(last["step"]), metrics=_pick(last, "loss", "reward_mean"))


def _progress(out: Path, state: RunState) -> Progress:
    rows = _last_rows(out / "rapo" / "metrics.jsonl")
    recent = [row for row in rows if _is_step(row)][-_RECENT:]
    last = recent[-1] if recent else {}
    step, steps = whole(last.get("step")) if state.step is None else state.step, state.steps
    parts = _mean_of([_numbers(row.get("seconds")) for row in recent])
    seconds = sum(parts.values()) if parts else None
    return Progress(
        step=step,
        steps=steps,
        version=state.version,
        step_seconds=seconds,
        seconds=parts,
        seconds_left=None if step is None or steps is None or seconds is None else max(0, steps - step) * seconds,
        staleness=_pick(last, "staleness_mean", "staleness_worst"),
        dropped=sum(whole(row.get("dropped")) or 0 for row in recent),
        idle=_mean_of([{side: row.get(f"idle_{side}") for side in ("rollout", "learner")} for row in recent]),
        metrics=_pick(last, "loss", "reward_mean", "parse_rate", "entropy"),
        validation=_last_validation(rows),
        window=state.window,
    )


def _last_validation(rows: Sequence[JsonRow]) -> list[Validation]:
    for row in reversed(rows):
        result = row.get("validation")
        if isinstance(result, dict):
            return [Validation(whole(row.get("step")), finite(result.get("srcc")), finite(result.get("plcc")))]
    return []


def _rate(worker: JsonRow) -> float | None:
    busy, tokens = finite(worker.get("busy_seconds")), finite(worker.get("tokens"))
    return tokens / busy if tokens is not None and busy else None


def _is_step(row: JsonRow) -> bool:
    return "step" in row and "validation" not in row


def _numbers(value: JsonValue) -> dict[str, float]:
    return _pick(value, *value) if isinstance(value, dict) else {}


def _pick(row: Mapping[str, JsonValue], *names: str) -> dict[str, float]:
    return {name: number for name in names if (number := finite(row.get(name))) is not None}


def _mean_of(rows: Sequence[Mapping[str, JsonValue]]) -> dict[str, float]:
    """The mean of each number of the last row over those rows that have any; one that a row lacks
    counts as 0."""
    numbers = [found for row in rows if (found := _pick(row, *row))]
    return {name: mean(row.get(name, 0.0) for row in numbers) for name in (numbers[-1] if numbers else {})}
