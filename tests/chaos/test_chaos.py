"""A run to which everything happens: workers, reward actor, learner ranks and the driver are
killed, a worker is stopped, nodes go.

Short as part of `make test-all`; `make chaos` sets RAPO_CHAOS_FAULTS to 50 or more, and compares
the result with a run that was left alone.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from cluster.files.jsonl import read_jsonl
from tests.chaos.monkey import Monkey, Run
from tests.chaos.plan import BATCH, FAULTS, LIMIT_S, LONG, NODE_CPUS, OVERRIDES, STEP_LIMIT_S, STEPS
from tests.small import rapo, settings

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(2 * LIMIT_S)]

#: Kinds of which a row of `faults.jsonl` tells within a few steps. A stopped worker is missed after
#: `rollout.hang_timeout_s` only, and a node only where something ran on it.
MISSED = ("rollout", "reward", "learner")


def test_every_group_is_used_once_whatever_dies(begun: Path, cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "struck"
    shutil.copytree(begun, out)
    address = ("ray.address=" + json.dumps(cluster.address),)
    run = Run(out, settings(*OVERRIDES, *address))
    monkey = Monkey(run, cluster, NODE_CPUS, seed=7)
    monkey.add_node()
    run.start()
    struck: Counter[str] = Counter()
    deadline = time.monotonic() + LIMIT_S
    for kind in monkey.mixed(FAULTS):
        reached, before = run.steps, losses(run, kind)
        progress = time.monotonic() + STEP_LIMIT_S
        while run.steps <= reached or not monkey.strike(kind):
            assert time.monotonic() < min(deadline, progress), f"no step after {reached}: {struck}\n{run.said()}"
            if run.code is not None:
                break
            time.sleep(0.2)
        if run.code is not None:
            break
        struck[kind] += 1
        # Before the next strike, which may be at the driver, the run has to have missed what this
        # one took.
        progress = time.monotonic() + STEP_LIMIT_S
        while kind in MISSED and losses(run, kind) == before:
            assert time.monotonic() < min(deadline, progress), f"{kind} is not missed: {struck}\n{run.said()}"
            if run.code is not None:  # at its end nothing is missed any more, which is well after the last strike only
                break
            time.sleep(0.2)
    while run.code is None:
        assert time.monotonic() < deadline, f"{struck}\n{run.said()}"
        time.sleep(0.5)
    assert run.code == 0, f"{struck}\n{run.said()}"
    assert sum(struck.values()) == FAULTS, f"the run ended before all was done to it: {struck}"

    assert [row["step"] for row in run.rows("metrics.jsonl") if "loss" in row] == list(range(1, STEPS + 1))
    used = Counter(ticket for row in run.rows("ledger.jsonl") for ticket in row["used"])
    assert set(used.values()) == {1}
    assert sorted(used) == list(range(STEPS * BATCH)), "all that were admitted were used, and no others"
    assert run.starts == 1 + struck["driver"]
    if LONG:
        undisturbed = tmp_path / "undisturbed"
        shutil.copytree(begun, undisturbed)
        done = rapo("train", "--out", str(undisturbed), *settings(*OVERRIDES), timeout=LIMIT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        struck_srcc, other_srcc = (last_validation(folder)["srcc"] for folder in (out, undisturbed))
        # Seeds alone move it by .02.
        assert abs(struck_srcc - other_srcc) < 0.05, (struck_srcc, other_srcc)


def losses(run: Run, kind: str) -> int:
    """How many losses in the role that `kind` strikes the run has told of."""
    return sum(row["role"].startswith(kind) for row in run.rows("faults.jsonl"))


def last_validation(out: Path) -> dict[str, float]:
    rows: list[dict[str, Any]] = read_jsonl(out / "rapo" / "metrics.jsonl")
    return [row["validation"] for row in rows if "validation" in row][-1]
