"""Runs TRL's side of the full-step benchmark in its own environment, and measures it alone.

    python -m bench.trl [--workload W1] [--micro-batches 64 128 256] [--steps 5] [--keep-denormals]

Expectation (2 cores, fp32): W1 about 3 s a step at one micro-batch of all 256 completions, W2 about
50 s at 32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench.support import record
from bench.support.environment import BenchmarkError, ensure_trl
from bench.support.workloads import WORKLOADS, Workload, build_model, write_images
from rapo.answers.prompts import SCORE_PROMPT
from rapo.policy.processing import PolicyProcessor

_SCRIPT = Path(__file__).parent / "support" / "trl_side.py"
#: Completions per forward and backward pass to try; TRL's best counts.
MICRO_BATCHES = {"W1": (64, 128, 256), "W2": (16, 32, 64)}


def run_trl(
    workload: Workload,
    model_dir: Path,
    images_dir: Path,
    micro_batches: Sequence[int],
    *,
    steps: int = 5,
    warmup: int = 1,
    threads: int = 2,
    flush_denormals: bool = True,
    limit_s: float = 1800.0,
) -> list[dict[str, Any]]:
    """One result per micro-batch size (in completions): median seconds of a step and of its parts
    (`trl_side.measure`).

    `images_dir` holds PNG files, enough for one step or more, taken in random order. The first
    `warmup` of the `steps` are not counted. `flush_denormals` gives TRL what rapo's learner sets
    for itself. `cpu_pressure` is, for each step in `steps_s`, the share of it in which something on
    the machine waited for a core (`record.CpuPressure`): a busy machine explains a slow step.
    Installs TRL's environment first if there is none. Raises `BenchmarkError` if TRL fails, takes
    longer than `limit_s`, or does not do the workload as specified.
    """
    if bad := [size for size in micro_batches if workload.rows % size or size % workload.completions]:
        raise BenchmarkError(f"micro-batches {bad} do not split {workload.rows} completions into whole groups")
    if not 0 <= warmup < steps:
        raise BenchmarkError(f"{warmup} warm-up steps of {steps} leave nothing to measure")
    processor = PolicyProcessor(model_dir)
    spec = {
        "model": str(model_dir.resolve()),
        "images_folder": str(images_dir.resolve()),
        "prompt": SCORE_PROMPT,
        "banned_token_ids": processor.banned_token_ids,
        "images": workload.images,
        "completions": workload.completions,
        "new_tokens": workload.new_tokens,
        "learning_rate": workload.learning_rate,
        "temperature": workload.temperature,
        "beta": workload.beta,
        "micro_batches": list(micro_batches),
        "steps": steps,
        "warmup": warmup,
        "threads": threads,
        "flush_denormals": flush_denormals,
    }
    results = [{"workload": workload.name, **result} for result in _run(spec, threads, limit_s)]
    if len(results) != len(micro_batches):
        raise BenchmarkError(f"TRL measured {len(results)} of {len(micro_batches)} settings")
    prompt_tokens = _prompt_tokens(processor, images_dir)
    for result in results:
        _check(result, workload, prompt_tokens)
    return results


def best(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The setting with the shortest step."""
    return min(results, key=lambda result: result["step_s"])


def _run(spec: dict[str, Any], threads: int, limit_s: float) -> list[dict[str, Any]]:
    python = ensure_trl()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec), encoding="utf-8")
        command = [str(python), "-I", str(_SCRIPT), str(path)]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=limit_s, env=environment, cwd=folder
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"TRL took longer than {limit_s:.0f} s; ask for fewer steps or settings") from error
    if done.returncode != 0:
        raise BenchmarkError(f"TRL's side ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _prompt_tokens(processor: PolicyProcessor, images_dir: Path) -> int:
    with Image.open(next(images_dir.glob("*.png"))) as image:
        return len(processor.prepare(image.convert("RGB")).prompt_ids)


def _check(result: dict[str, Any], workload: Workload, prompt_tokens: int) -> None:
    """The comparison holds only if TRL did the same work: same prompt, full completions, a KL term
    and a gradient."""
    if result["prompt_tokens"] != [prompt_tokens]:
        raise BenchmarkError(f"TRL's prompt has {result['prompt_tokens']} tokens, rapo's {prompt_tokens}")
    if result["mean_completion_tokens"] != workload.new_tokens:
        raise BenchmarkError(f"TRL's completions have {result['mean_completion_tokens']} tokens on average")
    if result["reference_model"] != (workload.beta > 0):
        raise BenchmarkError("TRL runs a reference model only if the KL term has a weight, and the reverse")
    norms = result["gradient_norms"]
    if not norms or not all(norm > 0 for norm in norms):
        raise BenchmarkError("a step of TRL had no gradient: its reward did not vary")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="W1")
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", help="completions a pass; default: three that span its best"
    )
    parser.add_argument("--steps", type=int, default=5, help="the first one is not counted")
    parser.add_argument("--keep-denormals", action="store_true", help="as TRL itself has it; slower")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for trl_<workload>.json and .md")
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    with tempfile.TemporaryDirectory() as temporary:
        model = build_model(workload, Path(temporary) / "model")
        images = write_images(workload, Path(temporary) / "images", arguments.steps)
        try:
            results = run_trl(
                workload,
                model,
                images,
                arguments.micro_batches or MICRO_BATCHES[workload.name],
                steps=arguments.steps,
                flush_denormals=not arguments.keep_denormals,
            )
        except BenchmarkError as error:
            sys.exit(str(error))
    name, machine = f"trl_{workload.name}{'_denormals' if arguments.keep_denormals else ''}", record.machine()
    record.write_json(name, {"machine": machine, "results": results}, arguments.out)
    shown = ("micro_batch", "step_s", "generation_s", "reference_s", "preparation_s", "training_s", "completions_per_s")
    rows = [{column: result[column] for column in shown} for result in results]
    notes = [record.describe(machine, results[0]["versions"])]
    record.write_markdown(name, f"TRL's GRPOTrainer on {workload.name}", rows, notes, arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
