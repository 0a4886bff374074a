"""A run whose driver is killed goes on exactly where it was; a live run is scaled; a damaged state
is stepped over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.files.jsonl import read_jsonl
from tests.limits import PATIENCE_S
from tests.small import branch, rapo, settings

pytestmark = [pytest.mark.integration, pytest.mark.long]

LIVE_STEPS = 100


def rows(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return read_jsonl(out / "rapo" / name)


def begin(out: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rapo", "train", "--out", str(out), *settings(*overrides)]
    log = (out / "test.log").open("ab")
    return subprocess.Popen(command, env={**os.environ, "CI": "true"}, stdout=log, stderr=log)


def wait_for(what: Any, process: subprocess.Popen[bytes], out: Path, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, (out / "test.log").read_text()[-3000:]
        assert time.monotonic() < deadline, (out / "test.log").read_text()[-3000:]
        time.sleep(0.2)  # what is asked may be costly: a list of files in a bucket


def steps_of(out: Path) -> list[dict[str, Any]]:
    return [row for row in rows(out) if "loss" in row]


def states(out: Path) -> list[int]:
    """The steps of which a state is on disk."""
    found = (re.fullmatch(r"step-(\d+)", folder.name) for folder in (out / "rapo" / "state").glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def model_of(out: Path) -> dict[str, np.ndarray]:
    done = json.loads((out / "rapo" / "done.json").read_text())
    return load_file(Path(done["model"]) / "model.safetensors")


def test_after_a_kill_of_the_driver_the_run_is_the_same_to_the_last_bit(
    finished: Path, started: Path, tmp_path: Path
) -> None:
    """The same as the one that nobody stopped, which is the finished run. That had another rollout
    worker, and its rank 0 published a version as one chunk; here each of both ranks publishes
    three, of a MiB."""
    others = ("rollout.workers=1", "learner.chunk_mib=1")
    broken = branch(started, tmp_path / "broken", *others)
    process = begin(broken, *others)
    wait_for(lambda: len(states(broken)) >= 2, process, broken)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (broken / "rapo" / "done.json").exists()
    # The newest state is torn as well: the one before it has to do.
    *_, before, newest = states(broken)
    (broken / "rapo" / "state" / f"step-{newest:06}" / "state.json").write_text("{")
    again = rapo("train", "--out", str(broken), *settings(*others))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"the state of step {newest} is damaged" in again.stdout + again.stderr
    assert f"goes on after step {before}" in again.stdout + again.stderr

    kept = ("step", "loss", "grad_norm", "entropy", "learning_rate", "reward_mean", "completion_tokens")
    assert [{k: row[k] for k in kept} for row in steps_of(broken)] == [
        {k: row[k] for k in kept} for row in steps_of(finished)
    ]
    assert [row["validation"] for row in rows(broken) if "validation" in row] == [
        row["validation"] for row in rows(finished) if "validation" in row
    ]
    assert rows(broken, "ledger.jsonl") == rows(finished, "ledger.jsonl")
    one, other = model_of(finished), model_of(broken)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_live_run_is_scaled_and_goes_on_with_other_numbers_of_workers(started: Path, tmp_path: Path) -> None:
    """From one rollout worker to two and back, then a kill, and on with one learner rank instead of
    two: every group once."""
    # An engine takes as long to start beside the others as some twenty-five steps.
    asynchronous = ("rapo.max_staleness=1", f"rapo.steps={LIVE_STEPS}", "rapo.checkpoint_every=5")
    out = branch(started, tmp_path / "scaled", *asynchronous)
    refused = rapo("scale", str(out), "--rollouts", "2")
    assert refused.returncode == 2
    assert "no run is working" in refused.stderr
    process = begin(out, *asynchronous, "rollout.workers=1")
    try:
        wait_for(lambda: len(steps_of(out)) >= 2, process, out)
        assert rapo("scale", str(out), "-n", "2").returncode == 0
        wait_for(lambda: routed(out) >= {"rollout-0", "rollout-1"}, process, out)
        assert rapo("scale", str(out), "-n", "1").returncode == 0
        wait_for(lambda: left(out), process, out)
        assert left(out) == {"rollout-1"}, "the first worker stays"
        reached = len(steps_of(out))
        wait_for(lambda: len(steps_of(out)) > reached + 2, process, out)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    reached = len(steps_of(out))
    assert reached < LIVE_STEPS
    again = rapo("train", "--out", str(out), *settings(*asynchronous, "rollout.workers=1", "learner.workers=1"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on after step" in again.stdout + again.stderr
    assert [row["step"] for row in steps_of(out)] == list(range(1, LIVE_STEPS + 1))
    used = Counter(ticket for row in rows(out, "ledger.jsonl") for ticket in row["used"])
    assert set(used.values()) == {1}
    assert sorted(used) == list(range(LIVE_STEPS * 8))
    parts = [row["seconds"] for row in rows(out, "fleet.jsonl") if row["event"] == "routed"]
    assert all(part.keys() == {"process", "engine", "weights", "first_group"} for part in parts)


def routed(out: Path) -> set[str]:
    return {row["worker"] for row in rows(out, "fleet.jsonl") if row["event"] == "routed"}


def left(out: Path) -> set[str]:
    return {row["worker"] for row in rows(out, "fleet.jsonl") if row["event"] == "left"}
