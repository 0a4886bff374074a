"""Shared-prefix packing against one row per completion: a training step (forward, backward, AdamW) on the same groups.

Expectation: the prefix is run once instead of K times, so the gain grows with K and with the prompt's share of a row; at K = 8
about 2x for a prompt of the completion's length. Both sides run in turn on the same batch; the ratio of the medians is what
counts.

    python -m bench.packing [--steps 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rapo.aescot.writer import phrases
from rapo.config import EmbeddedPolicyConfig
from rapo.policy.batch import GroupBatch, collate
from rapo.policy.embedded import build_embedded
from rapo.policy.forward import GroupPolicy, Packing
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model

#: name: policy, image side in pixels, images, tokens of a completion
WORKLOADS: dict[str, tuple[EmbeddedPolicyConfig, int, int, int]] = {
    "small": (EmbeddedPolicyConfig(), 84, 16, 48),
    "large": (
        EmbeddedPolicyConfig(hidden_size=512, text_layers=4, vision_layers=4, heads=8, pixels=224**2),
        224,
        4,
        96,
    ),
}


def measure(folder: Path, side: int, images: int, length: int, k: int, steps: int) -> dict[str, Any]:
    """Seconds of a step for both packings, and by how much their log-probs differ."""
    processor = PolicyProcessor(folder)
    rng = np.random.default_rng(0)
    prepared = [
        processor.prepare(Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))) for _ in range(images)
    ]
    completions = [[rng.integers(20, 300, length) for _ in range(k)] for _ in range(images)]
    batch = collate(prepared, completions, processor.tokenizer.pad_token_id)
    model = load_model(folder, "float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # the same work, the weights stay
    modes: tuple[Packing, ...] = ("rows", "prefix")
    policies = {mode: GroupPolicy(model, processor.banned_token_ids, packing=mode) for mode in modes}
    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    log_probs: dict[str, torch.Tensor] = {}
    for _ in range(steps + 1):
        for mode, policy in policies.items():
            began = time.perf_counter()
            log_probs[mode] = _step(policy, batch, optimizer)
            seconds[mode].append(time.perf_counter() - began)
    medians = {mode: statistics.median(values[1:]) for mode, values in seconds.items()}
    return {
        "k": k,
        "prompt_tokens": len(prepared[0].prompt_ids),
        "completion_tokens": length,
        **{f"{mode}_s": round(value, 4) for mode, value in medians.items()},
        "ratio": round(medians["rows"] / medians["prefix"], 2),
        "max_difference": float((log_probs["rows"] - log_probs["prefix"]).abs().max()),
    }


def _step(policy: GroupPolicy, batch: GroupBatch, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    log_probs, _ = policy(batch)
    weights = torch.linspace(-1.0, 1.0, len(log_probs))
    (log_probs * weights).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return log_probs.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    results: dict[str, Any] = {"torch": torch.__version__, "machine": platform.machine(), "threads": arguments.threads}
    for name, (settings, side, images, length) in WORKLOADS.items():
        with tempfile.TemporaryDirectory() as folder:
            build_embedded(Path(folder), settings, 0, phrases())
            results[name] = [measure(Path(folder), side, images, length, k, arguments.steps) for k in (4, 8, 16)]
    text = json.dumps(results, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
