"""The head node goes, and with it the driver, the control store and all that was on it: another
cluster takes the run over."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.chaos.conftest import a_cluster
from tests.chaos.monkey import Run
from tests.chaos.plan import BATCH, NODE_CPUS, OVERRIDES
from tests.limits import PATIENCE_S
from tests.small import branch, settings

pytestmark = [pytest.mark.integration, pytest.mark.long]

STEPS = 12
CHANGES = (*OVERRIDES, f"rapo.steps={STEPS}", f"rapo.evaluate_every={STEPS}")


def on(cluster: Cluster) -> list[str]:
    return settings(*CHANGES, "ray.address=" + json.dumps(cluster.address))


def ended(run: Run) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while run.code is None:
        assert time.monotonic() < deadline, run.said()
        time.sleep(0.2)
    return run.code


def test_a_run_whose_head_is_lost_goes_on_in_another_cluster(begun: Path, cluster: Cluster, tmp_path: Path) -> None:
    out = branch(begun, tmp_path / "run", *CHANGES)
    cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=128 * 2**20)
    run = Run(out, on(cluster))
    run.start()
    deadline = time.monotonic() + PATIENCE_S
    while run.steps < 4:
        assert run.code is None, run.said()
        assert time.monotonic() < deadline, run.said()
        time.sleep(0.1)
    head: Any = cluster.head_node  # to mypy always the None of Cluster's constructor
    head.kill_all_processes(check_alive=False, allow_graceful=False)
    assert ended(run) != 0
    deadline = time.monotonic() + PATIENCE_S
    while "the Ray node that it ran on is gone" not in run.said():  # what looks on speaks after the end
        assert time.monotonic() < deadline, run.said()
        time.sleep(0.1)

    other = a_cluster()
    try:
        again = Run(out, on(other))
        again.start()
        assert ended(again) == 0, again.said()
    finally:
        other.shutdown()
    assert "goes on after step" in again.said()
    assert [row["step"] for row in again.rows("metrics.jsonl") if "loss" in row] == list(range(1, STEPS + 1))
    used = Counter(ticket for row in again.rows("ledger.jsonl") for ticket in row["used"])
    assert set(used.values()) == {1}
    assert sorted(used) == list(range(STEPS * BATCH))
