"""Learner ranks and rollout workers that take turns: the numbers are those of a run where each has
its own place."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.integration.test_resume import begin, model_of, rows, steps_of, wait_for
from tests.limits import PATIENCE_S
from tests.small import branch

pytestmark = [pytest.mark.integration, pytest.mark.release]

COLOCATED = "rollout.placement=colocate"
SAME = ("step", "loss", "grad_norm", "entropy", "learning_rate", "reward_mean", "completion_tokens", "validation")


def numbers_of(out: Path) -> list[dict[str, object]]:
    return [{key: row[key] for key in SAME if key in row} for row in rows(out)]


def sleepers(out: Path) -> list[int]:
    """The processes of the workers that the run's state shows asleep."""
    state = out / "rapo" / "state.json"
    workers = json.loads(state.read_text())["fleet"]["workers"] if state.exists() else []
    return [worker["pid"] for worker in workers if worker["state"] == "asleep"]


def test_a_colocated_run_has_the_same_bits_even_where_a_worker_dies_in_the_learners_turn(
    finished: Path, started: Path, tmp_path: Path
) -> None:
    out = branch(started, tmp_path / "colocated", COLOCATED)
    process = begin(out, COLOCATED)
    try:
        wait_for(lambda: sleepers(out), process, out)
        os.kill(sleepers(out)[0], signal.SIGKILL)
        assert process.wait(timeout=PATIENCE_S) == 0, (out / "test.log").read_text()[-3000:]
    finally:
        process.kill()
    assert numbers_of(out) == numbers_of(finished)
    assert rows(out, "ledger.jsonl") == rows(finished, "ledger.jsonl")
    one, other = model_of(finished), model_of(out)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert all(row["sleep_s"] > 0.0 for row in steps_of(out))
    assert all(row["wake_s"] > 0.0 for row in steps_of(out)[1:])
    assert [fault["kind"] for fault in rows(out, "faults.jsonl")] == ["died"]


def test_split_workers_take_turns_with_as_many_ranks_as_they_have_parts(started: Path, tmp_path: Path) -> None:
    split = ("rollout.workers=1", "rollout.engine.tensor_parallel_size=2", "rapo.steps=3")
    outs = [tmp_path / name for name in ("apart", "colocated")]
    for out, more in zip(outs, ((), (COLOCATED,)), strict=True):
        branch(started, out, *split, *more)
        assert begin(out, *split, *more).wait(timeout=PATIENCE_S) == 0, (out / "test.log").read_text()[-3000:]
    apart, colocated = outs
    assert len(steps_of(colocated)) == 3
    assert numbers_of(colocated) == numbers_of(apart)
    assert rows(colocated, "ledger.jsonl") == rows(apart, "ledger.jsonl")
    assert all(row["sleep_s"] > 0.0 for row in steps_of(colocated))
    one, other = model_of(apart), model_of(colocated)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
