"""Linear models of sets of features: logistic regression with a ridge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

_RIDGE, _KEPT = 0.3, 4000


class Scores(Protocol):
    """A model, fitted here or read from its file."""

    def score(self, found: Set[str]) -> float: ...


@dataclass(frozen=True)
class Model:
    weights: dict[str, float]
    bias: float

    def score(self, found: Set[str]) -> float:
        return self.bias + sum(self.weights.get(part, 0.0) for part in found)


def fitted(rows: Sequence[Set[str]], yes: Sequence[bool], share: float) -> Model:
    """A model of the features that more than one of `rows` has, fitted twice: the second time of
    those with the largest weights. All rows of `yes` together weigh `share` of all others."""
    counts = Counter(part for one in rows for part in one)
    names = sorted(part for part, count in counts.items() if count > 1)
    column = {name: at for at, name in enumerate(names)}
    found = [[column[part] for part in sorted(one) if part in column] for one in rows]
    starts = np.cumsum([0, *map(len, found)])
    ones = np.ones(starts[-1])
    matrix = csr_matrix((ones, np.concatenate(found).astype(int), starts), shape=(len(rows), len(names)))
    is_yes = np.array(yes)
    weights = _fit(matrix, is_yes, share, np.zeros(len(names) + 1))
    kept = np.sort(np.argsort(-abs(weights[:-1]), kind="stable")[:_KEPT])
    weights = _fit(matrix[:, kept], is_yes, share, weights[[*kept, -1]])
    named = zip(kept, weights[:-1], strict=True)
    return Model({names[at]: float(weight) for at, weight in named}, float(weights[-1]))


def _fit(matrix: csr_matrix, yes: np.ndarray, share: float, start: np.ndarray) -> np.ndarray:
    sign = np.where(yes, 1.0, -1.0)
    weight = np.where(yes, share * (~yes).sum() / yes.sum(), 1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (matrix @ weights[:-1] + weights[-1])
        slope = -sign * weight / (1 + np.exp(np.clip(margin, -30, 30)))
        gradient = np.append(matrix.T @ slope + _RIDGE * weights[:-1], slope.sum())
        return float(weight @ np.logaddexp(0, -margin) + _RIDGE / 2 * weights[:-1] @ weights[:-1]), gradient

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
