"""A run to which everything happens: workers, reward actor, learner ranks and the driver are killed, a worker is
stopped, nodes go.

Short as part of `make test`; `make chaos` sets RAPO_CHAOS_FAULTS to 50 or more, and compares the result with a run
that was left alone.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.chaos.monkey import Monkey, Run
from tests.integration.conftest import rapo, settings

pytestmark = pytest.mark.integration

FAULTS = int(os.environ.get("RAPO_CHAOS_FAULTS", "6"))
LONG = FAULTS > 12
STEPS = 4 * FAULTS
BATCH, NODE_CPUS = 8, 2
LIMIT_S = 420 if not LONG else 240 * FAULTS
#: Seconds after a fault in which the run has to make a step again.
STEP_LIMIT_S = 180

OVERRIDES = (
    f"rapo.steps={STEPS}",
    "rapo.max_staleness=1",
    "rapo.checkpoint_every=3",
    f"rapo.evaluate_every={STEPS}",
    "rapo.select=last",
    "rapo.learning_rate=1e-4",
    "rollout.workers=2",
    "rollout.heartbeat_s=1",
    "rollout.hang_timeout_s=15",
    "learner.cpus=0.5",
)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder up to its cold start."""
    out = tmp_path_factory.mktemp("chaos") / "base"
    for stage in ("aescot", "coldstart"):
        done = rapo(stage, "--out", str(out), *settings(*OVERRIDES))
        assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that holds what is asked for without a GPU or a node of its own, and nodes that come and go."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": 256 * 2**20})
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


def test_every_group_is_used_once_whatever_dies(started: Path, cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "struck"
    shutil.copytree(started, out)
    address = ("ray.address=" + json.dumps(cluster.address),)
    run = Run(out, settings(*OVERRIDES, *address))
    monkey = Monkey(run, cluster, NODE_CPUS, seed=7)
    monkey.add_node()
    run.start()
    struck: Counter[str] = Counter()
    deadline = time.monotonic() + LIMIT_S
    for kind in monkey.mixed(FAULTS):
        reached = run.steps
        progress = time.monotonic() + STEP_LIMIT_S
        while run.steps <= reached or not monkey.strike(kind):
            assert time.monotonic() < min(deadline, progress), f"no step after {reached}: {struck}\n{run.said()}"
            if run.code is not None:
                break
            time.sleep(0.2)
        if run.code is not None:
            break
        struck[kind] += 1
    while run.code is None:
        assert time.monotonic() < deadline, f"{struck}\n{run.said()}"
        time.sleep(0.5)
    assert run.code == 0, f"{struck}\n{run.said()}"
    assert sum(struck.values()) == FAULTS, f"the run ended before all was done to it: {struck}"

    assert [row["step"] for row in run.rows("metrics.jsonl") if "loss" in row] == list(range(1, STEPS + 1))
    used = Counter(ticket for row in run.rows("ledger.jsonl") for ticket in row["used"])
    assert set(used.values()) == {1}
    assert sorted(used) == list(range(STEPS * BATCH)), "all that were admitted were used, and no others"
    survived = Counter(row["role"].split("-")[0] for row in run.rows("faults.jsonl"))
    assert survived["rollout"] >= struck["rollout"]
    assert survived["learner"] >= struck["learner"] > 0 or not struck["learner"]
    assert run.starts == 1 + struck["driver"]
    if LONG:
        undisturbed = tmp_path / "undisturbed"
        shutil.copytree(started, undisturbed)
        done = rapo("train", "--out", str(undisturbed), *settings(*OVERRIDES), timeout=LIMIT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        results = [last_validation(folder)["srcc"] for folder in (out, undisturbed)]
        assert abs(results[0] - results[1]) < 0.1, results


def last_validation(out: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (out / "rapo" / "metrics.jsonl").read_text().splitlines()]
    return [row["validation"] for row in rows if "validation" in row][-1]
