"""The learner's two packings side by side: completions behind a shared prefix, and each in a row of
its own.

    python -m bench.packing [--workloads W1 W2] [--completions 4 8 16] [--steps 5]
    python -m bench.packing --models DIR...     model folders, with the images and lengths of W1

One process, two threads, forward + backward + AdamW (learning rate 0: the same work, the weights
stay), the two interleaved so that drift hits both. Rows of one micro-batch: all of W1, `micro_rows`
of W2, the same for both packings. Expectation (2 cores, fp32, K = 8): W1 2.2x, W2 3x.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.support import record
from bench.support.workloads import WORKLOADS, Workload, build_model, make_images
from rapo.images.decode import decode_image
from rapo.policy.batch import GroupBatch, collate
from rapo.policy.forward import GroupPolicy, Packing
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model

_MODES: tuple[Packing, ...] = ("rows", "prefix")
#: Completions of one forward pass; W2's rows want more memory and get no faster with more.
_MICRO_ROWS = {"W1": 256, "W2": 32}
_PACKAGES = ("torch", "transformers")


def measure(workload: Workload, folder: Path, completions: int, steps: int) -> dict[str, Any]:
    """Seconds of a step for both packings, completion tokens per second, and by how much their
    log-probs differ."""
    processor = PolicyProcessor(folder)
    model = load_model(str(folder), "float32")
    batches = _batches(workload, processor, completions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    policies = {mode: GroupPolicy(model, processor.banned_token_ids, packing=mode) for mode in _MODES}
    seconds: dict[str, list[float]] = {mode: [] for mode in _MODES}
    log_probs: dict[str, torch.Tensor] = {}
    pressure = record.CpuPressure()
    for _ in range(steps + 1):
        for mode, policy in policies.items():
            began = time.perf_counter()
            log_probs[mode] = _step(policy, batches, optimizer)
            seconds[mode].append(time.perf_counter() - began)
    medians = {mode: statistics.median(values[1:]) for mode, values in seconds.items()}
    tokens = sum(int(batch.completion_mask.sum()) for batch in batches)
    return {
        "workload": workload.name,
        "K": completions,
        "prompt_tokens": batches[0].prompt_ids.shape[1],
        **{f"{mode}_s": value for mode, value in medians.items()},
        **{f"{mode}_tokens_per_s": tokens / value for mode, value in medians.items()},
        "ratio": medians["rows"] / medians["prefix"],
        "max_difference": float((log_probs["rows"] - log_probs["prefix"]).abs().max()),
        "cpu_pressure": pressure.share(),
    }


def _batches(workload: Workload, processor: PolicyProcessor, completions: int) -> list[GroupBatch]:
    """As many images as make the workload's completions, in micro-batches."""
    rng = np.random.default_rng(0)
    images = [decode_image(data) for data in make_images(workload, 0)]
    count = max(1, workload.rows // completions)
    prepared = [processor.prepare(_image(images, index)) for index in range(count)]
    allowed = np.setdiff1d(np.arange(len(processor.tokenizer)), processor.banned_token_ids)
    sampled = [[rng.choice(allowed, workload.new_tokens) for _ in range(completions)] for _ in range(count)]
    groups = max(1, _MICRO_ROWS[workload.name] // completions)
    pad = processor.tokenizer.pad_token_id
    return [collate(prepared[i : i + groups], sampled[i : i + groups], pad) for i in range(0, count, groups)]


def _image(images: list[Image.Image], index: int) -> Image.Image:
    return images[index % len(images)]


def _step(policy: GroupPolicy, batches: list[GroupBatch], optimizer: torch.optim.Optimizer) -> torch.Tensor:
    parts = []
    for batch in batches:
        log_probs, _, _ = policy(batch)
        (log_probs * torch.linspace(-1.0, 1.0, len(log_probs))).mean().backward()
        parts.append(log_probs.detach())
    optimizer.step()
    optimizer.zero_grad()
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="folders to measure instead of workloads")
    parser.add_argument("--completions", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--steps", type=int, default=5, help="for W1; W2 runs two")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for packing.json and packing.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    rows = []
    for folder in arguments.models:
        for completions in arguments.completions:
            found = measure(WORKLOADS["W1"], folder, completions, arguments.steps)
            rows.append(found | {"workload": folder.name})
            sys.stdout.write(record.markdown_table(rows[-1:]) + "\n")
    for name in [] if arguments.models else arguments.workloads:
        with tempfile.TemporaryDirectory() as temporary:
            folder = build_model(WORKLOADS[name], Path(temporary) / "model")
            for completions in arguments.completions:
                steps = arguments.steps if name == "W1" else 2
                rows.append(measure(WORKLOADS[name], folder, completions, steps))
                sys.stdout.write(record.markdown_table(rows[-1:]) + "\n")
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("packing", {"machine": machine, "versions": versions, "results": rows}, arguments.out)
    notes = [f"{arguments.threads} threads.", record.describe(machine, versions)]
    record.write_markdown("packing", "Shared prefix against rows", rows, notes, arguments.out)


if __name__ == "__main__":
    main()
