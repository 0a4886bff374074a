"""The reward against the way in which the released code computes its rank term: one CDF per pair,
torch scalars.

`python -m bench.reward [--slow-images 256]` writes `bench/results/reward.json` and `.md`. Both
sides run on one thread; the slow one once and in whole (about a minute at 256 images), ours as the
median of several runs. The slow side computes the relative term only, ours the whole reward with
advantages and metrics.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.support import record
from rapo.algorithm.reward import RewardSettings, rapo_rewards


def loop_per_pair(scores: np.ndarray, targets: np.ndarray, gamma: float = 1e-6) -> np.ndarray:
    """The relative term `(N, K)` with a Python loop over completions and opponents, each pair in
    torch scalars."""
    values, labels = torch.tensor(scores), torch.tensor(targets)
    images, completions = values.shape
    out = np.zeros(scores.shape)
    for i in range(images):
        for k in range(completions):
            fidelity = 0.0
            for j in range(images):
                if j == i:
                    continue
                spread = torch.sqrt(torch.var(values[i]) + torch.var(values[j]) + gamma)
                z = (values[i, k] - torch.mean(values[j])) / spread
                p = torch.distributions.Normal(0.0, 1.0).cdf(z)
                win = 1.0 if labels[i] >= labels[j] else 0.0
                fidelity += (torch.sqrt(win * p + gamma) + torch.sqrt((1 - win) * (1 - p) + gamma)).item()
            out[i, k] = round(fidelity / (images - 1), 4)
    return out


def batch(images: int, completions: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.uniform(0.1, 0.9, images).round(2)
    scores = np.clip(targets[:, None] + rng.normal(0, 0.15, (images, completions)), 0, 1).round(2)
    return scores, targets


def seconds(call: Callable[[], Any], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow-images", type=int, default=256, help="size at which the loop runs; 0: not at all")
    parser.add_argument("--large-images", type=int, default=16_384, help="size of the large batch; 0: leave it out")
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for reward.json and reward.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    result: dict[str, Any] = {
        "machine": record.machine(),
        "versions": record.versions(("numpy", "scipy", "torch")),
        "completions": arguments.completions,
    }
    if arguments.slow_images:
        scores, targets = batch(arguments.slow_images, arguments.completions)
        upstream = RewardSettings(preset="upstream")
        ours = seconds(lambda: rapo_rewards(scores, targets), repeat=21)
        start = time.perf_counter()
        slow = loop_per_pair(scores, targets)
        loop = time.perf_counter() - start
        difference = np.abs(rapo_rewards(scores, targets, settings=upstream).relative - slow).max()
        result["against_loop"] = {
            "images": arguments.slow_images,
            "loop_s": loop,
            "rapo_s": ours,
            "rapo_upstream_preset_s": seconds(lambda: rapo_rewards(scores, targets, settings=upstream), repeat=21),
            "ratio": loop / ours,
            "max_difference_of_upstream_preset": float(difference),
        }
    if arguments.large_images:
        scores, targets = batch(arguments.large_images, arguments.completions)
        before = peak_mib()
        elapsed = seconds(lambda: rapo_rewards(scores, targets), repeat=1)
        pairs = math.prod(scores.shape) * (arguments.large_images - 1)
        result["large"] = {
            "images": arguments.large_images,
            "rapo_s": elapsed,
            "comparisons_per_s": pairs / elapsed,
            "extra_peak_mib": peak_mib() - before,
        }
    record.write_json("reward", result, arguments.out)
    rows = [{"batch": name, **result[name]} for name in ("against_loop", "large") if name in result]
    notes = [record.describe(result["machine"], result["versions"])]
    record.write_markdown("reward", "The reward against a loop per pair", rows, notes, arguments.out)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
