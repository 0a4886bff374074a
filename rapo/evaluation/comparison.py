"""Comparison: several models on several test sets, as plain values that JSON holds.

- The mean over sets counts each set once, whatever its size. It is undefined where the figure is
  undefined on one of the sets, or where the model has no predictions for one.
- Two models are compared on the images for which both have a score, by a paired bootstrap. Sets are
  resampled independently of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from rapo.arrays import Floats
from rapo.evaluation.figures import (
    CORRELATIONS,
    ERRORS,
    RESAMPLED,
    Bootstrap,
    Figure,
    Predicted,
    SetFigures,
    figure,
    set_figures,
)

#: The figures that two models are compared by.
COMPARED = ("plcc", "srcc", "mae")
#: Stands for the mean over all sets among the names of sets.
MEAN = "mean"


class SetFacts(TypedDict):
    """A test set: the `collection` that it is, its own scale and that scale's width, the
    `images` that were used of those that `there` are, and where it comes from."""

    collection: str
    native_range: list[float]
    width: float
    images: int
    there: int
    source: str


class ModelFigures(TypedDict):
    """The figures by set, and the mean of each over all sets."""

    sets: dict[str, SetFigures]
    mean: dict[str, Figure]


class Difference(TypedDict):
    """`figures` of model `a` minus those of model `b` on the `n` images of a set that both have
    scored; of the mean over all sets where `set` is `MEAN`."""

    a: str
    b: str
    set: str
    n: int
    figures: dict[str, Figure]


class Comparison(TypedDict):
    """All figures. `notes` are sentences that a reader of the table should know."""

    readout: str
    seed: int
    bootstrap: int
    sets: dict[str, SetFacts]
    models: dict[str, ModelFigures]
    differences: list[Difference]
    notes: list[str]


@dataclass(frozen=True)
class Comparer:
    """Compares models: `predictions` are by model and set. Every model has the images of a set in
    the same order."""

    sets: Mapping[str, SetFacts]
    predictions: Mapping[str, Mapping[str, Predicted]]
    bootstrap: int = 1000
    seed: int = 0
    _known: dict[tuple[str, str, bytes], dict[str, Floats]] = field(default_factory=dict)

    def compare(self, readout: str, notes: Sequence[str] = ()) -> Comparison:
        """All figures, and the differences of each two models: the later one minus the earlier."""
        return {
            "readout": readout,
            "seed": self.seed,
            "bootstrap": self.bootstrap,
            "sets": dict(self.sets),
            "models": {model: self.figures(model) for model in self.predictions},
            "differences": [row for b, a in combinations(self.predictions, 2) for row in self._differences(a, b)],
            "notes": list(notes),
        }

    def _resampled(self, model: str, name: str, rows: NDArray[np.bool_]) -> dict[str, Floats]:
        key = model, name, rows.tobytes()
        if key not in self._known:
            boot = Bootstrap(name, self.bootstrap, self.seed)
            self._known[key] = boot.resampled(self.predictions[model][name], rows)
        return self._known[key]

    def figures(self, model: str) -> ModelFigures:
        """The figures of one model."""
        made: dict[str, SetFigures] = {}
        resampled: dict[str, dict[str, Floats]] = {}
        for name, predicted in self.predictions[model].items():
            resampled[name] = self._resampled(model, name, predicted.valid)
            made[name] = set_figures(predicted, resampled[name], self.sets[name]["width"])
        names = (*CORRELATIONS, *ERRORS, "parse_rate")
        by_set = {name: {key: made[name]["figures"][key] for key in names} for name in made}
        return {"sets": made, "mean": {key: self._mean(key, by_set, resampled) for key in names}}

    def _mean(
        self, key: str, by_set: Mapping[str, Mapping[str, Figure]], resampled: Mapping[str, Mapping[str, Floats]]
    ) -> Figure:
        values = []
        for name in self.sets:
            if name not in by_set:
                return figure(None, None, f"no predictions for {name}")
            if (value := by_set[name][key]["value"]) is None:
                return figure(None, None, f"{name}: {by_set[name][key]['undefined']}")
            values.append(value)
        if not values:
            return figure(None, None, "no sets")
        parts = [resampled[name][key] for name in self.sets] if key in RESAMPLED else None
        return figure(float(np.mean(values)), None if parts is None else np.mean(parts, axis=0), None)

    def _differences(self, a: str, b: str) -> list[Difference]:
        rows: list[Difference] = []
        resampled: dict[str, dict[str, Floats]] = {}
        for name in self.sets:
            one, other = self.predictions[a].get(name), self.predictions[b].get(name)
            if one is None or other is None:
                continue
            both = one.valid & other.valid
            sides = [self._resampled(model, name, both) for model in (a, b)]
            resampled[name] = {key: sides[0][key] - sides[1][key] for key in COMPARED}
            figures = _points(one, other, both)
            for key, one_figure in figures.items():
                figures[key] = figure(one_figure["value"], resampled[name][key], one_figure["undefined"])
            rows.append({"a": a, "b": b, "set": name, "n": int(both.sum()), "figures": figures})
        if len(self.sets) > 1:
            by_set = {row["set"]: row["figures"] for row in rows}
            means = {key: self._mean(key, by_set, resampled) for key in COMPARED}
            rows.append({"a": a, "b": b, "set": MEAN, "n": sum(row["n"] for row in rows), "figures": means})
        return rows


def _points(one: Predicted, other: Predicted, both: NDArray[np.bool_]) -> dict[str, Figure]:
    """The differences of two models on the images `both` have scored, without intervals."""
    unscaled = one.unscaled or other.unscaled
    sides = []
    for predicted in (one, other):
        kept = [p for p, chosen in zip(predicted.predictions, both, strict=True) if chosen]
        part = Predicted(kept, unscaled)
        empty = {key: np.empty(0) for key in RESAMPLED}
        sides.append(set_figures(part, empty, 1.0)["figures"])
    found: dict[str, Figure] = {}
    for key in COMPARED:
        a, b = sides[0][key], sides[1][key]
        if a["value"] is None or b["value"] is None:
            found[key] = figure(None, None, a["undefined"] or b["undefined"])
        else:
            found[key] = figure(a["value"] - b["value"], None, None)
    return found
