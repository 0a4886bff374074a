"""The RAPO stage: fleet and learners are brought up side by side, then the controller runs the loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.controller import Controller
from cluster.findings import FINDINGS
from cluster.fleet import Fleet
from cluster.learners import LearnerGroup
from rapo.config import Config
from rapo.datasets import Dataset


def train_rapo(
    config: Config,
    dataset: Dataset,
    start_dir: Path,
    out: Path,
    fleet: Fleet,
    progress: Callable[[int, dict[str, float]], None],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train from the model of `start_dir`; metrics and checkpoints go to `out`. What `done.json` says of the result."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.jsonl").unlink(missing_ok=True)  # an unfinished attempt starts over
    (out / FINDINGS).unlink(missing_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    learners = LearnerGroup(config)
    try:
        engines, ranks = fleet.start(start_dir, 0), learners.start(start_dir)
        fleet.ready(engines)
        fallback = learners.ready(ranks)[0]["fallback"]
        if fallback is not None:
            note(f"every completion is trained with a prompt of its own (learner.packing = rows): {fallback}")
        controller = Controller(config, fleet, learners, start_dir, out, note)
        outcome = controller.run(dataset.split("train"), dataset.split("validation"), progress)
    finally:
        learners.close()
    busier = min(outcome.idle, key=lambda side: outcome.idle[side])
    shares = ", ".join(f"{side} {share:.0%}" for side, share in outcome.idle.items())
    note(f"idle: {shares}; the {busier} side is what the other waits for")
    return {
        "model": str(outcome.folder),
        "step": outcome.step,
        "steps": outcome.steps,
        "validation": outcome.validation,
        "idle": outcome.idle,
    }
