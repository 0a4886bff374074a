"""What the controller costs by number of rollout workers, and how it takes stragglers, lost
machines and a slow network.

    python -m bench.scale [--workers 1 8 64 512] [--scenarios plain storm] [--steps 5] [--rate 150]

Controller, fleet, window, image store, reward actor, weight versions and Ray are the real ones.
Workers sleep, many to a process (`bench.scale.hosted`), and so do the two learner ranks. Each
worker has four groups at a time; a step takes four per worker, at least 32. Latencies are such that
the fleet makes `rate` groups per second: more than the machine can host would measure the hosts.

- stragglers: one worker of a hundred takes ten times as long
- storm: half of the machines go at once, after the second step, and come back
- slow network: a weight load takes as long as a group, and a call's way ten times as long

Each run ends with a look at its ledger: every group was used once.

Cost is CPU time of the driver over the groups of the steps after the first: of the controller's
thread, and of the process, which adds Ray's own threads. Expectation: 0.3 to 0.6 ms of the thread
for a submit, a receipt and the passing on of a group and its image, whatever the number of workers;
1.5 times that for the process.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.support import record
from rapo.config import Config, load_config
from rapo.records import ImageRecord

if TYPE_CHECKING:
    from bench.scale.meter import Meter

_PACKAGES = ("ray", "numpy")
_IN_FLIGHT, _PER_HOST = 4, 64
_IMAGE_BYTES = 16 * 1024
_BY_THREAD = "threads_ms_per_group"
_THREADS = 12  # those with the most CPU time that the JSON file names
SCENARIOS = ("plain", "stragglers", "storm", "slow network")


def settings(workers: int, steps: int) -> Config:
    return load_config(
        None,
        [
            f"rollout.workers={workers}",
            "rollout.cpus=0",
            f"rollout.max_groups={_IN_FLIGHT}",
            f"rapo.images_per_step={max(32, _IN_FLIGHT * workers)}",
            f"rapo.steps={steps}",
            "rapo.completions=4",
            "rapo.max_staleness=1",
            "rapo.evaluate_every=1000000",
            "rapo.checkpoint_every=1000000",
            "rapo.select=last",
            "rapo.watch.enabled=false",
            "ray.object_store_mib=1024",
        ],
    )


def images(count: int) -> list[ImageRecord]:
    return [
        ImageRecord(
            f"i/{i}", "s", "train", i / count, i / count, (0.0, 1.0), data=i.to_bytes(4, "big") * (_IMAGE_BYTES // 4)
        )
        for i in range(count)
    ]


def timing_of(scenario: str, workers: int, rate: float) -> Any:
    """Latencies with which the fleet makes `rate` groups per second on average."""
    from bench.scale.hosted import Timing

    plain = Timing(group=_IN_FLIGHT * workers / rate, load=0.1, network=0.001)
    if scenario == "stragglers":
        return dataclasses.replace(plain, slow_every=100)
    if scenario == "slow network":
        return dataclasses.replace(plain, load=plain.group, network=0.01)
    return plain


def measure(
    board: Any, workers: int, steps: int, rate: float, scenario: str, profile: Path | None = None
) -> dict[str, Any]:
    """One run of the loop; `board` tells the learners how long they take."""
    import ray

    from bench.scale.hosted import HostedWorkers, hosted_handles
    from bench.scale.ledger import check_ledger
    from bench.scale.meter import Meter
    from bench.support.simulated import Latency, SimulatedLearner
    from cluster.remote.actors import Launcher
    from cluster.training.controller import TrainingData
    from cluster.training.session import Launchers, training_session

    config = settings(workers, steps)
    timing = timing_of(scenario, workers, rate)
    hosted = HostedWorkers(timing, min(_PER_HOST, -(-workers // 2)))  # two hosts at least, so that half of them can go
    step_s = config.rapo.images_per_step / rate
    latency = Latency(engine_step=0.0, learner_step=step_s / 2, load=0.0, publish=0.05, tokens=0.0)
    ray.get(board.write.remote(latency), timeout=60)
    meter = Meter((lambda: hosted.preempt(0.5)) if scenario == "storm" else None)
    meter.profile = cProfile.Profile() if profile is not None else None
    with tempfile.TemporaryDirectory() as temporary, hosted_handles():
        out = Path(temporary)
        data = TrainingData(images(2 * config.rapo.images_per_step), [])
        launchers = Launchers(worker=hosted, learner=Launcher(SimulatedLearner))
        try:
            with training_session(config, data, out, out, listener=meter, launchers=launchers) as controller:
                controller.run()
            check_ledger(out, config.rapo.images_per_step * steps)
        finally:
            hosted.close()
    if meter.profile is not None and profile is not None:
        meter.profile.disable()
        meter.profile.dump_stats(profile)
    return summary(meter, config, scenario)


def summary(meter: Meter, config: Config, scenario: str) -> dict[str, Any]:
    rows, marks = meter.rows[1:], meter.marks[1:]  # from the end of the first step on
    groups = config.rapo.images_per_step * len(rows)
    thread, process, wall = (b - a for a, b in zip(marks[0], marks[-1], strict=True))
    steps = [b[2] - a[2] for a, b in pairwise(marks)]
    longest = sorted(meter.thread_seconds().items(), key=lambda item: item[1], reverse=True)
    return {
        "scenario": scenario,
        "workers": config.rollout.workers,
        "groups_per_step": config.rapo.images_per_step,
        "thread_ms_per_group": 1000 * thread / groups,
        "process_ms_per_group": 1000 * process / groups,
        "groups_per_s": groups / wall,
        "step_s_median": statistics.median(steps),
        "step_s_worst": max(steps),
        "staleness_mean": statistics.mean(row["staleness_mean"] for row in rows),
        "dropped": sum(row["dropped"] for row in rows),
        "idle_rollout": statistics.mean(row["idle_rollout"] for row in rows),
        "faults": meter.faults,
        "driver_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        _BY_THREAD: {name: round(1000 * seconds / groups, 3) for name, seconds in longest[:_THREADS]},
    }


def _shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as a table has them; what threads took is in the JSON file."""
    return [{name: value for name, value in row.items() if name != _BY_THREAD} for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rate", type=float, default=150.0, help="groups per second that the fleet makes")
    parser.add_argument("--profile", type=Path, help="cProfile of the controller's thread at the last size")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for scale.json and .md")
    options = parser.parse_args(arguments)
    from cluster.remote.ray_session import ray_session

    rows = []
    pressure = record.CpuPressure()
    largest = max(options.workers)
    runs = [
        (workers, scenario)
        for scenario in options.scenarios
        for workers in (options.workers if scenario == "plain" else [largest])
    ]
    with ray_session(settings(1, 1)):
        from bench.support.simulated import Latency, LatencyBoard

        board = LatencyBoard.options(name="latency").remote(Latency(0, 0, 0, 0, 0))  # type: ignore[attr-defined]
        for workers, scenario in runs:
            profile = options.profile if (workers, scenario) == (largest, "plain") else None
            rows.append(measure(board, workers, options.steps, options.rate, scenario, profile))
            sys.stdout.write(f"{record.markdown_table(_shown(rows[-1:]))}\n{json.dumps(rows[-1][_BY_THREAD])}\n")
            sys.stdout.flush()
    machine, versions = record.machine(), record.versions(_PACKAGES)
    result = {"machine": machine, "versions": versions, "cpu_pressure": pressure.share(), "rows": rows}
    record.write_json("scale", result, options.out)
    notes = [f"The fleet makes {options.rate:g} groups per second.", record.describe(machine, versions)]
    record.write_markdown("scale", "The controller by number of workers", _shown(rows), notes, options.out)


if __name__ == "__main__":
    main()
