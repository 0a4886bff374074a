"""The system's configuration and records for a benchmark workload. No Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.support.workloads import Workload
from rapo.config import Config, load_config
from rapo.records import ImageRecord


def workload_config(workload: Workload, model_dir: Path, steps: int, *overrides: str) -> Config:
    """The system's configuration for a workload: two rollout workers and two learner ranks of one
    thread each."""
    settings = (
        f"policy.model={model_dir}",
        f"policy.max_completion_tokens={workload.new_tokens}",
        f"rapo.steps={steps}",
        f"rapo.images_per_step={workload.images}",
        f"rapo.completions={workload.completions}",
        f"rapo.learning_rate={workload.learning_rate}",
        f"rapo.sampling.temperature={workload.temperature}",
        f"rapo.loss.kl_beta={workload.beta}",
        "rapo.max_staleness=0",
        "rapo.schedule=constant",
        "rapo.select=last",
        "rapo.watch.enabled=false",
    )
    return load_config(None, [*settings, *overrides])


def image_records(folder: Path) -> list[ImageRecord]:
    """A training record for each PNG of `folder`, with made-up scores."""
    rng = np.random.default_rng(0)
    paths = sorted(folder.glob("*.png"))
    return [
        ImageRecord(path.stem, "noise", "train", float(score), float(score), (0.0, 1.0), path=path)
        for path, score in zip(paths, rng.uniform(size=len(paths)), strict=True)
    ]
