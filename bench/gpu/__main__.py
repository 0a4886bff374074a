"""What a GPU does with the learner, and whether the whole chain runs on it.

    python -m bench.gpu [--models 3B 7B] [--minutes 12]

- Part (a), the learner alone, needs torch and transformers, whichever recent versions are there,
  and neither weights nor data nor network. It measures models of random weights.
- Part (b) runs where vLLM's build for CUDA is installed: the demo of `configs/gpu-demo.toml` and
  the tests with the mark `gpu`.
- What a part finds is written at once, so that a run that is cut short has told what it knew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.gpu.learner import SIZES, learner_rows
from bench.gpu.preparation import preparation_rows
from bench.support import record

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "transformers", "deepspeed", "vllm")


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=SIZES, nargs="+", default=["3B", "7B"])
    parser.add_argument("--minutes", type=float, default=12.0, help="of part (a); what does not fit is left out")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, to try the script")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for gpu.json and gpu.md")
    chosen = parser.parse_args(arguments)
    if not chosen.cpu and not torch.cuda.is_available():
        sys.stderr.write("torch finds no GPU here; --cpu tries the script with the tiny model\n")
        return 1
    card = "CPU" if chosen.cpu else torch.cuda.get_device_name()
    deadline = time.monotonic() + 60.0 * chosen.minutes
    rows: list[dict[str, Any]] = []
    for size in ["tiny"] if chosen.cpu else chosen.models:
        for row in learner_rows(size, torch.device("cpu" if chosen.cpu else "cuda"), deadline):
            rows.append({"card": card, **row})
            _write(rows, chosen.out)
    for row in preparation_rows(2 if chosen.cpu else 32):
        rows.append({"card": card, **row})
        _write(rows, chosen.out)
    return 0 if chosen.cpu or not _has_cuda_vllm() else _whole_chain(chosen.out)


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("gpu", {"machine": machine, "versions": versions, "results": rows}, out)
    record.write_markdown("gpu", "The learner on a GPU", rows, [record.describe(machine, versions)], out)
    sys.stdout.write(record.markdown_table(rows[-1:]) + "\n")
    sys.stdout.flush()


def _has_cuda_vllm() -> bool:
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        sys.stdout.write("part (b) is left out: vLLM's build for CUDA is not installed\n")
        return False
    return True


def _whole_chain(out: Path) -> int:
    """The demo, then the tests of the real parts, on the GPU; the first exit status that is not
    0."""
    demo = [sys.executable, "-m", "rapo", "run", "configs/gpu-demo.toml", "--out", str(out / "gpu-demo")]
    tests = [sys.executable, "-m", "pytest", "tests/integration", "-q", "-m", "gpu", "--durations=15"]
    for command in (demo, tests):
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "RAPO_TEST_GPUS": "1"}, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
