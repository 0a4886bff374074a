"""Grounding: how far the levels that rationales state agree with the images, by rank correlation.

- The SRCC of a dimension is over the images whose rationale judges it.
- In the mean each dimension counts with the share of images whose rationale judges it, so that
  silence on the hard images does not pay. A dimension that is never judged, or always judged alike,
  counts as 0, in resamples as well: such statements tell nothing of the image.
- SRCC does not see a bias: judging every image one level too high costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import TypedDict

from rapo.arrays import Floats
from rapo.explanations.levels import stated_levels
from rapo.metrics import srcc
from rapo.records import DIMENSIONS
from rapo.resampling import Ranker, percentile_interval, resampled_counts, weighted_correlation


class DimensionGrounding(TypedDict):
    """`srcc` of stated and true level with its interval, None where not defined.

    `stated` is the share of images whose rationale judges the dimension. `alike` is the share of
    these that state the commonest level: at 1 the statement is constant. It is None where there are
    none.
    """

    srcc: float | None
    interval: list[float] | None
    stated: float
    alike: float | None


class Grounding(TypedDict):
    """The `mean` of all dimensions with its interval, None without images; `coverage` is the mean
    share of the dimensions that a rationale judges."""

    mean: float | None
    interval: list[float] | None
    coverage: float | None
    dimensions: dict[str, DimensionGrounding]


def grounding(rationales: Sequence[str], attributes: Floats, *, bootstrap: int = 0, seed: int = 0) -> Grounding:
    """The grounding of `n` rationales in the attributes `(n, 5)` of their images.

    A row of NaN is an image without attributes; it counts for coverage only. The intervals are
    percentile intervals of 95 % over `bootstrap` resamples of the images, None with 0.
    """
    levels = _levels(rationales)
    known = np.flatnonzero(np.isfinite(attributes).all(axis=1))
    n = known.size
    found: dict[str, DimensionGrounding] = {}
    for place, name in enumerate(DIMENSIONS):
        told = known[np.isfinite(levels[known, place])]
        values = levels[told, place]
        found[name] = {
            "srcc": srcc(values, attributes[told, place]),
            "interval": None,
            "stated": told.size / n if n else 0.0,
            "alike": float(np.unique(values, return_counts=True)[1].max() / values.size) if values.size else None,
        }
    result: Grounding = {
        "mean": sum((row["srcc"] or 0.0) * row["stated"] for row in found.values()) / len(DIMENSIONS) if n else None,
        "interval": None,
        "coverage": float(np.isfinite(levels).mean()) if len(rationales) else None,
        "dimensions": found,
    }
    if bootstrap and n:
        _add_intervals(result, levels[known], attributes[known], bootstrap, np.random.default_rng(seed))
    return result


def _levels(rationales: Sequence[str]) -> Floats:
    """Stated levels `(n, 5)`, NaN where a rationale states none."""
    levels = np.full((len(rationales), len(DIMENSIONS)), np.nan)
    for row, rationale in enumerate(rationales):
        for name, level in stated_levels(rationale).items():
            levels[row, DIMENSIONS.index(name)] = level
    return levels


def _add_intervals(
    result: Grounding, levels: Floats, attributes: Floats, resamples: int, rng: np.random.Generator
) -> None:
    n = len(levels)
    stated = [np.flatnonzero(np.isfinite(column)) for column in levels.T]
    ranks = [
        (Ranker(levels[rows, place]), Ranker(attributes[rows, place])) if rows.size else None
        for place, rows in enumerate(stated)
    ]
    means: list[Floats] = []
    blocks: list[list[Floats]] = [[] for _ in DIMENSIONS]
    for counts in resampled_counts(n, resamples, rng):
        total = np.zeros(len(counts))
        for place, rankers in enumerate(ranks):
            if rankers is None:
                continue
            own = counts[:, stated[place]]
            values = np.nan_to_num(weighted_correlation(rankers[0](own), rankers[1](own), own))
            blocks[place].append(values)
            total += values * own.sum(axis=1) / n
        means.append(total / len(DIMENSIONS))
    result["interval"] = percentile_interval(means)
    for name, resampled in zip(DIMENSIONS, blocks, strict=True):
        if result["dimensions"][name]["srcc"] is not None:
            result["dimensions"][name]["interval"] = percentile_interval(resampled)
