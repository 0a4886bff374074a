"""Evaluation builders: test sets and predictions for the tests of the harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rapo.datasets.scales import Scale
from rapo.evaluation.comparison import SetFacts
from rapo.evaluation.figures import Predicted
from rapo.evaluation.sets import EvalSet
from rapo.records import ImageRecord, Prediction

SCALE = Scale((1.0, 10.0), "minmax", 1.0, 9.0, 9.0)


def predicted(
    scores: Sequence[float | None], targets: Sequence[float], unscaled: str | None = None, name: str = "d"
) -> Predicted:
    rows = [
        Prediction(f"{name}/{index}", name, target, score, "", None if score is not None else "no_answer")
        for index, (score, target) in enumerate(zip(scores, targets, strict=True))
    ]
    return Predicted(rows, unscaled)


def noisy(n: int, noise: float, seed: int = 0) -> tuple[list[float | None], list[float]]:
    """Scores that follow targets; the targets do not depend on the noise."""
    targets = np.random.default_rng(seed).uniform(0, 1, n).round(2)
    error = np.random.default_rng(seed + 1000).normal(0, noise, n)
    return [*(targets + error).clip(0, 1).round(2).tolist()], targets.tolist()


def facts(n: int, collection: str = "") -> SetFacts:
    return {
        "collection": collection,
        "native_range": [1.0, 10.0],
        "width": 9.0,
        "images": n,
        "there": n,
        "source": "here",
    }


def eval_set(folder: Path, targets: Sequence[float], name: str = "d") -> EvalSet:
    """A set whose images lie in `folder`/name."""
    records = []
    for index, target in enumerate(targets):
        path = folder / name / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % round(100 * target))
        records.append(
            ImageRecord(f"{name}/{path.name}", name, "test", target, 1.0 + 9.0 * target, (1.0, 10.0), path=path)
        )
    return EvalSet(name, "", records, SCALE, len(records), "here")
