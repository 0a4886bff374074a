"""The scorer of the manifests on a cluster, behind two gateways, while callers ask: a gateway is
killed, a node is drained and taken back, and another node is killed."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
import yaml

from cluster.remote.ray_session import QUIET_ENVIRONMENT
from rapo.client import CallError, ScorerClient
from tests.gateway_process import SECRET, gateway_process
from tests.integration.conftest import make_image
from tests.integration.nodes.bare_cluster import ROOT, BareCluster, bare_cluster
from tests.limits import PATIENCE_S
from tests.s3_server import free_port

pytestmark = [pytest.mark.integration, pytest.mark.release]

_SCORER = ROOT / "cluster/deploy/base/scorer"
#: A replica fills a node.
_HERE = ("serve.cpus=8", "serve.threads=1", "serve.autoscale.max_replicas=2")
_CALLERS, _PAUSE_S = 4, 0.1


class Callers:
    """Threads that ask one client for scores of dark images, which are 0.21."""

    def __init__(self, client: ScorerClient) -> None:
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(_CALLERS)]
        #: How long each call took, in seconds, in the order of their ends.
        self.took_s: list[float] = []
        self.wrong: list[float] = []
        self.failed: list[CallError] = []
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        for image in cycle(_dark(shade) for shade in range(10, 30)):
            if self._stop.wait(_PAUSE_S):
                return
            began = time.monotonic()
            try:
                score = self._client.score(image).score
            except CallError as error:
                self.failed.append(error)
            else:
                self.took_s.append(time.monotonic() - began)
                if abs(score - 0.21) > 0.02:
                    self.wrong.append(score)

    def answered(self, more: int) -> None:
        """Wait for `more` answers from now on; fails with the first call that failed."""
        before = len(self.took_s)
        until(lambda: self.failed or len(self.took_s) >= before + more)
        assert self.failed == []

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)


def test_callers_see_neither_a_lost_gateway_nor_lost_nodes(taught_model: Path, tmp_path: Path) -> None:
    """The callers' address is a name of both gateways, and the gateways' one of all of Serve's
    proxies: those of one machine share a port, as those of a Service share a name."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    service = yaml.safe_load((_SCORER / "ray-service.yaml").read_text(encoding="utf-8"))["spec"]
    nodes = {**QUIET_ENVIRONMENT, **_variables(service), "PYTHONPATH": str(ROOT)}
    with bare_cluster(tmp_path, "spot-1", "spot-2", **nodes) as bare:
        port = deploy(bare, service["serveConfigV2"], taught_model, secret)
        until(lambda: len(nodes_of_replicas(bare)) == 2)
        first_nodes = nodes_of_replicas(bare)
        upstreams = f"127.0.0.1:{port}", f"127.0.0.2:{port}"
        with (
            gateway_process(secret, *upstreams) as (first, first_address),
            gateway_process(secret, *upstreams) as (_, second_address),
            ScorerClient(f"ipv4:{first_address},{second_address}", timeout=60) as client,
        ):
            client.score(_dark(20))
            callers = Callers(client)
            try:
                callers.answered(20)
                first.kill()
                callers.answered(40)

                bare.add("spot-3")
                bare.drain("spot-1")
                until(lambda: len(nodes_of_replicas(bare) - first_nodes) == 1)
                callers.answered(20)
                bare.kill("spot-1")
                callers.answered(40)

                bare.kill("spot-2")
                callers.answered(40)
                bare.add("spot-4")
                until(lambda: len(nodes_of_replicas(bare) - first_nodes) == 2)
                callers.answered(20)
            finally:
                callers.end()
        assert callers.failed == []
        assert callers.wrong == []
        assert max(callers.took_s) < 30, sorted(callers.took_s)[-10:]


def _dark(shade: int) -> bytes:
    buffer = io.BytesIO()
    make_image(shade).save(buffer, "JPEG")
    return buffer.getvalue()


def _variables(service: dict[str, object]) -> dict[str, str]:
    """What the manifests put into the environment of Serve's nodes."""
    cluster = service["rayClusterConfig"]
    assert isinstance(cluster, dict)
    (container,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def deploy(bare: BareCluster, text: str, model: Path, secret: Path) -> int:
    """Give Serve the configuration of the manifests, as KubeRay does, with the paths and ports of
    this machine; the port of its gRPC proxies."""
    wanted = yaml.safe_load(text)
    wanted["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    wanted["grpc_options"]["port"] = port = free_port()
    (application,) = wanted["applications"]
    here = {"model": str(model), "config": str(_SCORER / "scorer.toml"), "secret_file": str(secret)}
    assert application["args"].keys() == here.keys()
    application["args"] = {**here, "set": list(_HERE)}
    _call(bare, "PUT", json.dumps(wanted).encode())
    return port


def nodes_of_replicas(bare: BareCluster) -> set[str]:
    """The nodes with a replica that runs."""
    applications = json.loads(_call(bare, "GET"))["applications"].values()
    for application in applications:
        assert application["status"] != "DEPLOY_FAILED", application["message"]
    deployments = [one for application in applications for one in application["deployments"].values()]
    replicas = [replica for deployment in deployments for replica in deployment["replicas"]]
    return {replica["node_id"] for replica in replicas if replica["state"] == "RUNNING"}


def _call(bare: BareCluster, method: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(f"{bare.jobs}/api/serve/applications/", body, method=method)
    request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def until(true: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
