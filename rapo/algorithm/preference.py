"""Preference: the probability that an image is preferred to another (Thurstone's model, case V with
each image's own variance).

    p_ij = Phi((mu_i - mu_j) / sqrt(var_i + var_j + gamma))

It is the comparison in the reward's relative term (`rapo.algorithm.reward`; Aes-R1, arXiv
2509.21871, Eq. 3), with the score for mu and the square of its standard deviation for var. It is
plain Python, because n is small and clients need no NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def preference(mean_i: float, mean_j: float, var_i: float, var_j: float, gamma: float) -> float:
    """The probability that i is preferred to j; NaN where a score is NaN. `gamma` > 0, variances >=
    0."""
    # erfc keeps its precision in both tails, where 1 + erf would round to nothing.
    return 0.5 * math.erfc((mean_j - mean_i) / math.sqrt(2.0 * (var_i + var_j + gamma)))


def preference_matrix(means: Sequence[float], variances: Sequence[float], gamma: float) -> list[float]:
    """The n x n probabilities, row by row: entry i * n + j is that image i is preferred to image j.

    The diagonal is 0.5; an entry is NaN where a mean is NaN. Raises `ValueError` for lengths that
    differ, `gamma` <= 0 or a negative variance.
    """
    if len(means) != len(variances):
        raise ValueError(f"{len(means)} means and {len(variances)} variances; give one variance for each mean")
    if not gamma > 0 or any(variance < 0 for variance in variances):
        raise ValueError(f"gamma = {gamma} must be positive and no variance negative")
    moments = list(zip(means, variances, strict=True))
    return [preference(mi, mj, vi, vj, gamma) for mi, vi in moments for mj, vj in moments]


def order(scores: Sequence[float]) -> list[int]:
    """The indices of `scores` from best to worst. Equal scores keep their order; NaN come last."""
    return sorted(
        range(len(scores)), key=lambda i: (math.isnan(scores[i]), -scores[i] if scores[i] == scores[i] else 0)
    )
