"""Metrics through the real Ray: what a driver sets is read from the node's Prometheus endpoint."""

from __future__ import annotations

import time
import urllib.request

import pytest
import ray

from actors.messages import GroupReceipt
from cluster.monitoring.prometheus import PrometheusBackend
from cluster.monitoring.telemetry import Telemetry
from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.long]

_STATE = {
    "fleet": {"wanted": 2, "workers": [{"name": "rollout worker 0", "state": "ready", "running": 3, "tokens": 70}]}
}


def test_prometheus_gets_the_figures_from_ray(local_ray: None) -> None:
    said: list[str] = []
    telemetry = Telemetry([PrometheusBackend("test-run")], said.append)
    telemetry.step({"step": 5, "loss": 0.125, "dropped": 2, "seconds": {"rollout": 2.0}})
    telemetry.fleet(_STATE)
    telemetry.groups(
        [
            GroupReceipt(version=5, tokens=40, seconds=0.5, busy_seconds=0.5, worker="rollout-0"),
            GroupReceipt(version=5, tokens=2, seconds=0.7, busy_seconds=1.2, worker="rollout-0"),
        ]
    )
    telemetry.fault({"role": "rollout worker 3 on somewhere", "kind": "death"})
    (port,) = {node["MetricsExportPort"] for node in ray.nodes()}
    wanted = {
        "ray_rapo_loss{": 0.125,
        "ray_rapo_dropped_total{": 2.0,
        "ray_rapo_groups_total{": 2.0,
        "ray_rapo_tokens_total{": 42.0,
        "ray_rapo_worker_running{": 3.0,
        "ray_rapo_faults_total{": 1.0,
        "ray_rapo_step_seconds_count{": 1.0,
        "ray_rapo_group_seconds_count{": 2.0,  # Ray sends buckets only: a sum is made of their middles
    }
    deadline = time.monotonic() + PATIENCE_S
    found: dict[str, float] = {}
    while found != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(1.0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if 'run="test-run"' in line]
        found = {name: float(line.split()[-1]) for line in lines for name in wanted if line.startswith(name)}
    faults = [line for line in lines if line.startswith("ray_rapo_faults_total")]
    assert 'role="rollout worker"' in faults[0]
    assert not said
