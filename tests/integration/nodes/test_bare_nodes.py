"""A cluster whose nodes have no code of rapo: it is sent to them, roles are placed on purpose, and
a run that was submitted as a job outlives a node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.files.run_mirror import scratch_folder
from rapo.errors import ResourceError
from rapo.storage.snapshot import read_state
from rapo.storage.store import Store
from tests.integration.nodes.bare_cluster import ROOT, BareCluster, bare_cluster
from tests.integration.test_resume import rows, steps_of, wait_for
from tests.limits import PATIENCE_S
from tests.s3_server import BUCKET, environment, s3_server
from tests.small import branch, settings

pytestmark = [pytest.mark.integration, pytest.mark.release, pytest.mark.timeout(2 * PATIENCE_S)]

#: Steps go on while the second worker of a node starts, of which the test waits for two.
STEPS, BATCH = 64, 8
#: No checkpoint is due before the end.
LENGTH = (f"rapo.steps={STEPS}", f"rapo.evaluate_every={STEPS}", f"rapo.checkpoint_every={STEPS}")

#: Prints the nodes of four rollout workers, and of two ranks under two strategies.
PLACED = """
import json, sys
from cluster.remote.ray_session import prepare_environment, ray_session
from rapo.config import load_config
config = load_config(overrides=[*sys.argv[1:], "rollout.workers=4"])
prepare_environment(config)
import ray
from cluster.learner.group import LearnerGroup
from cluster.remote.actors import Launcher
from cluster.rollout.worker_handle import create
from tests.limits import PATIENCE_S
class Where:
    ACTOR_OPTIONS = {"max_restarts": 0}
    def __init__(self, *arguments):
        import actors.rollout
    def node(self):
        return ray.get_runtime_context().get_node_id()
def nodes(actors):
    return ray.get([actor.node.remote() for actor in actors], timeout=PATIENCE_S)
with ray_session(config):
    workers = [create(number, config, Launcher(Where)) for number in range(4)]
    placed = {"workers": nodes([worker.actor for worker in workers])}
    for worker in workers:
        worker.end()
    for strategy in ("pack", "strict_spread"):
        learner = config.learner.model_copy(update={"placement": strategy})
        group = LearnerGroup(config.model_copy(update={"learner": learner}), Launcher(Where))
        placed[strategy] = nodes(group._ranks)
        group.close()
    print(json.dumps(placed))
"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with s3_server() as port:
        for key, value in environment(port).items():
            monkeypatch.setenv(key, value)
        yield environment(port)


def test_the_code_is_sent_and_roles_are_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with bare_cluster(tmp_path, "on-demand", "spot") as bare:
        there = [f"ray.address={bare.address}", f"ray.working_dir={ROOT}"]
        done = subprocess.run(
            [sys.executable, "-c", PLACED, *there],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        placed = json.loads(done.stdout.splitlines()[-1])
        assert sorted(Counter(placed["workers"]).values()) == [2, 2], "spread"
        assert len(set(placed["pack"])) == 1
        assert len(set(placed["strict_spread"])) == 2


def test_a_submitted_run_outlives_its_nodes(
    s3: dict[str, str], started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver runs on a node that is not the head, and no other sees the run's folder. While it
    trains, a node of its rollout workers is drained, the next one is killed, and then all nodes are
    lost with the run's folder. Another cluster continues the run from the URL to its end."""
    url = f"s3://{BUCKET}/runs/submitted"
    spot, on_demand = (f'{{"ray.io/market-type" = "{kind}"}}' for kind in ("spot", "on-demand"))
    local = (f"storage.scratch={tmp_path}", "storage.every_s=0.5", "ray.address=auto")
    steady = (f"{role}.labels={on_demand}" for role in ("coldstart", "learner", "serve"))
    there = (*local, f"rollout.labels={spot}", *steady, *LENGTH)
    folder = scratch_folder(url, tmp_path)
    folder.parent.mkdir(parents=True)
    branch(started, folder, *there)
    shutil.rmtree(folder / "coldstart")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    run = ("run", "--out", url, *settings(*there))
    nodes = ("driver", "on-demand", "spot-1")
    unseen = {**s3, "UNSEEN": str(folder)}

    (tmp_path / "one").mkdir()
    with bare_cluster(tmp_path / "one", *nodes, **unseen) as bare, job(bare, tmp_path, *run) as process:
        wait_for(lambda: steps_of(folder), process, tmp_path)
        assert list((tmp_path / "copies").glob("*/model/config.json")), "workers need not see the run's folder"
        bare.add("spot-2")
        bare.drain("spot-1")
        wait_for(lambda: events(folder, "left") == 2, process, tmp_path)
        wait_for(lambda: "nodes are about to go" in bare.said(), process, tmp_path)
        wait_for(lambda: stored_steps(url), process, tmp_path)
        assert rows(folder, "faults.jsonl") == []
        wait_for(lambda: events(folder, "ready") == 4, process, tmp_path)
        bare.kill("spot-2")
        bare.add("spot-3")
        wait_for(lambda: events(folder, "ready") == 6, process, tmp_path)
        assert {row["action"] for row in rows(folder, "faults.jsonl")} == {"replaced"}
    (tmp_path / "lost").mkdir()
    for name in ("runs", "copies"):
        (tmp_path / name).rename(tmp_path / "lost" / name)

    (tmp_path / "other").mkdir()
    with bare_cluster(tmp_path / "other", *nodes, **unseen) as bare, job(bare, tmp_path, *run) as process:
        assert process.wait(PATIENCE_S) == 0, bare.said()
        assert f"restored from {url}" in bare.said()
        assert "goes on after step" in bare.said()
    assert [row["step"] for row in steps_of(folder)] == list(range(1, STEPS + 1))
    used = Counter(ticket for row in rows(folder, "ledger.jsonl") for ticket in row["used"])
    assert set(used.values()) == {1}, "every group once"
    assert sorted(used) == list(range(STEPS * BATCH))
    served = json.loads((folder / "serve/done.json").read_text())
    assert (served["images"], served["failed"]) == (6, 0)
    names = {one.name for one in Store(url).files() if not one.name.startswith(".rapo/")}
    assert {"report.html", "export/model.safetensors", "export/rapo.json", "evaluate/rapo.json"} <= names
    assert Store(url).read(".rapo/owner.json") is None, "the next driver need not wait"


@contextmanager
def job(bare: BareCluster, out: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`rapo` as a job on the driver's node, with the code of this checkout; killed at the end of
    the block is what follows its log."""
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", bare.jobs]
    place = ["--working-dir", str(ROOT), "--entrypoint-resources", json.dumps({"driver": 1})]
    with (out / "test.log").open("ab") as log:
        command = [*submit, *place, "--", sys.executable, "-m", "rapo", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def events(folder: Path, event: str) -> int:
    """How many workers have had an event."""
    return sum(row["event"] == event for row in rows(folder, "fleet.jsonl"))


def stored_steps(url: str) -> set[str]:
    """The training states that are at the URL; none where the server is too busy to say."""
    try:
        state = read_state(Store(url))
    except ResourceError:
        return set()
    names = {} if state is None else state.files
    return {name.split("/")[2] for name in names if name.startswith("rapo/state/step-")}
