"""A cluster of several raylets: what `rapo check --cluster` says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.limits import PATIENCE_S
from tests.small import rapo

pytestmark = [pytest.mark.integration, pytest.mark.release]

#: In a process of its own, because Ray reads its environment when it is imported. It says where the
#: head is, and ends with its input.
CLUSTER = """
import json, sys
from cluster.remote.ray_session import prepare_environment
from rapo.config import load_config
prepare_environment(load_config(overrides=["ray.address=auto"]))
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
for labels in ({"ray.io/market-type": "on-demand"}, {"ray.io/market-type": "spot"}):
    cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20, labels=labels)
cluster.wait_for_nodes()
print(json.dumps({"address": cluster.address}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def a_cluster() -> Iterator[dict[str, str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "RAY_AUTH_MODE": "disabled"},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
                return
        raise AssertionError("the cluster did not start")
    finally:
        process.communicate(timeout=PATIENCE_S)


def test_each_node_is_looked_at_and_each_role_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with a_cluster() as where:
        fits = [
            f"ray.address={where['address']}",
            'rollout.labels={"ray.io/market-type" = "spot"}',
            'learner.labels={"ray.io/market-type" = "on-demand"}',
            "serve.port=0",
        ]
        asked = [part for change in fits for part in ("--set", change)]
        said = rapo("check", "--cluster", "--out", str(tmp_path / "run"), *asked)
        assert said.returncode == 0, said.stdout + said.stderr
        assert len(re.findall(r"^node ", said.stdout, re.MULTILINE)) == 3
        assert "nothing is wrong" in said.stdout
        wrong = rapo("check", "--cluster", *asked, "--set", "rollout.workers=5", "--set", "rollout.gpus=1")
        assert wrong.returncode == 2
        assert "5 of 5 rollout workers (1 CPU, 1 GPU, ray.io/market-type=spot each) find no room" in wrong.stderr
