"""Figures over sets: what stands for a model whose images are of several data sets.

- A correlation over images of several sets would mix their scales, so it is the mean over the sets,
  each of which counts once. Errors are over all images alike.
- A set whose human scores cannot be ranked (fewer than two images, or all alike) tells nothing of a
  model, and is left out of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapo.evaluation.figures import CORRELATIONS, Predicted
from rapo.metrics import Evaluation, defined, evaluate_predictions
from rapo.records import Prediction


def by_set(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The predictions of each data set, in the order of their first ones."""
    found: dict[str, list[Prediction]] = {}
    for one in predictions:
        found.setdefault(one.dataset, []).append(one)
    return found


def mean_correlations(predictions: Sequence[Prediction]) -> dict[str, float | None]:
    """Each of `CORRELATIONS` as the mean over the data sets; None where it is undefined in one of
    them, or where no set can be ranked."""
    rows: list[Evaluation] = []
    for of_set in by_set(predictions).values():
        targets = Predicted(of_set).targets
        if defined(targets, targets):
            rows.append(evaluate_predictions(of_set, bootstrap=0))
    means: dict[str, float | None] = {}
    values = {"plcc": [row["plcc"] for row in rows], "srcc": [row["srcc"] for row in rows],
              "krcc": [row["krcc"] for row in rows]}  # fmt: skip
    for name in CORRELATIONS:
        known = [value for value in values[name] if value is not None]
        means[name] = float(np.mean(known)) if rows and len(known) == len(rows) else None
    return means
