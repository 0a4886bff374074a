"""Judged grounding: how much of what rationales say a judge model sees in their images.

- It reads rationales in any words, where the statements of `rapo.explanations.grounding` are read
  by lists of English words.
- It is a share of aspects, not a correlation, and as good as its judge: figures of two judges are
  not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import TypedDict

from rapo.explanations.grounding_judge import GroundingVerdict
from rapo.records import DIMENSIONS
from rapo.resampling import interval, resampled_counts


class JudgedGrounding(TypedDict):
    """The `mean` share of dimensions about which a rationale says something that its image bears
    out, with its interval, over the `n` rationales that got a verdict; None without any.

    `dimensions` are the shares by dimension. `unjudged` rationales got no verdict, the first of
    them for the reason `problem`. `model` is the judge.
    """

    model: str
    n: int
    mean: float | None
    interval: list[float] | None
    dimensions: dict[str, float]
    unjudged: int
    problem: str | None


def judged_grounding(
    verdicts: Sequence[GroundingVerdict], model: str, *, bootstrap: int = 0, seed: int = 0
) -> JudgedGrounding:
    """The measures of verdicts on a model's rationales. The interval is a percentile interval of
    95 % over `bootstrap` resamples of the images, None with 0."""
    fits = np.array([verdict.fits for verdict in verdicts if verdict.fits is not None])
    n = len(fits)
    result: JudgedGrounding = {
        "model": model,
        "n": n,
        "mean": float(fits.mean()) if n else None,
        "interval": None,
        "dimensions": dict(zip(DIMENSIONS, fits.mean(axis=0).tolist(), strict=True)) if n else {},
        "unjudged": len(verdicts) - n,
        "problem": next((verdict.problem for verdict in verdicts if verdict.fits is None), None),
    }
    if n and bootstrap:
        means = fits.mean(axis=1)
        blocks = [counts @ means / n for counts in resampled_counts(n, bootstrap, np.random.default_rng(seed))]
        result["interval"] = interval(np.concatenate(blocks))
    return result
