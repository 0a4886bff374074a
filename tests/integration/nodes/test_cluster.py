"""A cluster of several raylets: what `rapo check --cluster` says of it, and two gateways before a
scorer on it, one of which is killed while callers ask."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rapo.client import CallError, ScorerClient
from tests.gateway_process import SECRET, gateway_process
from tests.integration.conftest import make_image
from tests.small import rapo

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(400)]

#: In a process of its own, because Ray reads its environment when it is imported. It says where the
#: head is, and with a model where Serve's proxies are; it ends with its input.
CLUSTER = """
import json, sys
from cluster.remote.ray_session import prepare_environment
from rapo.config import load_config
address, model, secret = sys.argv[1:]
prepare_environment(load_config(overrides=["ray.address=auto"]))
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
for labels in ({"ray.io/market-type": "on-demand"}, {"ray.io/market-type": "spot"}):
    cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20, labels=labels)
cluster.wait_for_nodes()
upstream = ""
if model:
    ray.init(address=cluster.address, log_to_driver=False)
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions
    from services.app import _free_port, build, head_address
    port = _free_port()
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host="127.0.0.1", port=_free_port()),
        grpc_options=gRPCOptions(
            port=port, grpc_servicer_functions=["rapo.v1.scorer_pb2_grpc.add_AestheticScorerServicer_to_server"]
        ),
    )
    settings = ["serve.threads=1", "policy.max_completion_tokens=32"]
    serve.run(
        build({"model": model, "secret_file": secret, "version": "v1", "set": settings}),
        name="rapo-v1", route_prefix="/rapo-v1",
    )
    upstream = f"{head_address()}:{port}"
print(json.dumps({"address": cluster.address, "upstream": upstream}), flush=True)
sys.stdin.read()
if model:
    serve.shutdown()
    ray.shutdown()
cluster.shutdown()
"""


@contextmanager
def a_cluster(model: str = "", secret: str = "") -> Iterator[dict[str, str]]:
    import json

    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, "", model, secret],
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
        process.communicate(timeout=90)


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


def test_a_gateway_is_killed_and_callers_of_both_see_nothing(taught_model: Path, tmp_path: Path) -> None:
    """The callers' address is a name of both gateways, as a Service or a balancer has."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    buffer = io.BytesIO()
    make_image(20).save(buffer, "JPEG")
    image = buffer.getvalue()
    with (
        a_cluster(str(taught_model), str(secret)) as where,
        gateway_process(secret, where["upstream"]) as (first, first_address),
        gateway_process(secret, where["upstream"]) as (_, second_address),
        ScorerClient(f"ipv4:{first_address},{second_address}", timeout=60) as client,
    ):
        assert client.score(image).model_version == "v1"
        scores: list[float] = []
        failed: list[CallError] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    scores.append(client.score(image).score)
                except CallError as error:
                    failed.append(error)

        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        until(lambda: len(scores) > 20)
        first.kill()
        before = len(scores)
        until(lambda: len(scores) > before + 40)
        stop.set()
        for caller in callers:
            caller.join(60)
        assert failed == []
        assert max(abs(score - 0.21) for score in scores) < 0.02


def until(true: object, limit_s: float = 60.0) -> None:
    assert callable(true)
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
