"""Figures: what the predictions of one model for one test set are worth, with bootstrap intervals.

- A figure that is not defined has no value, and says why. It is never 0.
- Correlations are those of `rapo.metrics`: PLCC on the scores as they are, without a fitted curve.
- The resamples of a set depend on seed and set alone. Models are therefore compared on the same
  resamples of the same images.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from rapo.arrays import Floats
from rapo.metrics import defined, evaluate_predictions, why_undefined
from rapo.records import Prediction
from rapo.resampling import Ranker, interval, resampled_counts, weighted_correlation

#: Agreement with the human scores, which needs no common scale.
CORRELATIONS = ("plcc", "srcc", "krcc")
#: Differences from the human scores on [0, 1], and the ratio of the spreads (population sd).
ERRORS = ("mae", "rmse", "bias", "spread")
#: Figures with bootstrap intervals. KRCC has none: it has no fast form under resampling.
RESAMPLED = ("plcc", "srcc", "mae", "rmse", "bias")


class Figure(TypedDict):
    """`value` is None where the figure is `undefined`, which says why. `interval` is `[low, high]`
    of 95 %, None without a value and where there are no resamples."""

    value: float | None
    interval: list[float] | None
    undefined: str | None


class SetFigures(TypedDict):
    """The figures of a model on one set.

    `figures` has `CORRELATIONS`, `ERRORS`, "native_mae" (the MAE on the set's own scale) and
    "parse_rate" (the share of the `n` images with a score). `invalid` counts the images without a
    score by reason; `forced` those whose answer was held to numbers.
    """

    n: int
    n_valid: int
    invalid: dict[str, int]
    forced: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Predicted:
    """A model's predictions for a set, an entry for each image in the set's order. `unscaled` says
    why their scores are not on [0, 1], None where they are."""

    predictions: Sequence[Prediction]
    unscaled: str | None = None

    @property
    def scores(self) -> Floats:
        """Scores `(n,)`, NaN where there is none."""
        return np.array([np.nan if p.score is None else p.score for p in self.predictions], np.float64)

    @property
    def targets(self) -> Floats:
        """Human scores `(n,)`, NaN where there is none."""
        return np.array([np.nan if p.target is None else p.target for p in self.predictions], np.float64)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether an image has a score `(n,)`."""
        return np.isfinite(self.scores)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """`resamples` of the images of the set called `name`, from `seed`."""

    name: str
    resamples: int
    seed: int

    def resampled(self, predicted: Predicted, rows: NDArray[np.bool_]) -> dict[str, Floats]:
        """Each of `RESAMPLED` under each resample `(resamples,)`, over the images of the mask
        `rows` `(n,)`; NaN where it is not defined."""
        picked = np.flatnonzero(rows)
        x, y = predicted.scores[picked], predicted.targets[picked]
        if not self.resamples or not len(picked):
            return {name: np.full(self.resamples, np.nan) for name in RESAMPLED}
        error = x - y
        sides = _Sides(x, y) if defined(x, y) else None
        blocks: dict[str, list[Floats]] = {name: [] for name in RESAMPLED}
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        for counts in resampled_counts(len(rows), self.resamples, rng):
            own = counts[:, picked]
            total = own.sum(axis=1)
            share = own / np.where(total, total, np.nan)[:, None]
            nothing = np.full(len(own), np.nan)
            blocks["plcc"].append(nothing if sides is None else sides.plcc(own))
            blocks["srcc"].append(nothing if sides is None else sides.srcc(own))
            blocks["mae"].append(share @ np.abs(error))
            blocks["rmse"].append(np.sqrt(share @ np.square(error)))
            blocks["bias"].append(share @ error)
        return {name: np.concatenate(parts) for name, parts in blocks.items()}


class _Sides:
    """Predictions and human scores, standardised and ready to be ranked."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self._zx, self._zy = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
        self._rank_x, self._rank_y = Ranker(x), Ranker(y)

    def plcc(self, counts: Floats) -> Floats:
        return weighted_correlation(self._zx, self._zy, counts)

    def srcc(self, counts: Floats) -> Floats:
        return weighted_correlation(self._rank_x(counts), self._rank_y(counts), counts)


def set_figures(predicted: Predicted, resampled: dict[str, Floats], width: float) -> SetFigures:
    """The figures of a model on a set whose native scale is `width` wide. `resampled` is that of
    all its valid images. Raises `DataError` for an image without a human score."""
    found = evaluate_predictions(predicted.predictions, bootstrap=0)
    valid = predicted.valid
    x, y = predicted.scores[valid], predicted.targets[valid]
    values: dict[str, float | None] = {
        "plcc": found["plcc"], "srcc": found["srcc"], "krcc": found["krcc"],
        "mae": found["mae"], "rmse": found["rmse"], "bias": found["bias"], "spread": found["spread"],
    }  # fmt: skip
    figures = {name: figure(values[name], resampled.get(name), why_undefined(x, y)) for name in CORRELATIONS}
    no_error = None if x.size else why_undefined(x, y)
    no_spread = no_error or (None if values["spread"] is not None else "all human scores are equal")
    for name in ERRORS:
        if predicted.unscaled is not None:
            figures[name] = figure(None, None, predicted.unscaled)
        else:
            figures[name] = figure(values[name], resampled.get(name), no_spread if name == "spread" else no_error)
    figures["native_mae"] = scaled(figures["mae"], width)
    figures["parse_rate"] = figure(found["parse_rate"], None, "the set has no images")
    return {
        "n": found["n"],
        "n_valid": found["n_valid"],
        "invalid": found["invalid"],
        "forced": sum(p.forced for p in predicted.predictions),
        "figures": figures,
    }


def figure(value: float | None, resampled: Floats | None, undefined: str | None) -> Figure:
    """A figure with the interval of its resampled values; `undefined` counts where there is no
    value."""
    if value is None:
        return {"value": None, "interval": None, "undefined": undefined or "not defined"}
    return {"value": value, "interval": None if resampled is None else interval(resampled), "undefined": None}


def scaled(one: Figure, factor: float) -> Figure:
    """The same figure in other units."""
    value, bounds = one["value"], one["interval"]
    return {
        "value": None if value is None else value * factor,
        "interval": None if bounds is None else [bound * factor for bound in bounds],
        "undefined": one["undefined"],
    }
