"""Explanation table: the measures of explanations and of resolution, by model, as people read
them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.files.report import MODELS, Report
from cluster.terminal.format import count, fixed, interval, percent

if TYPE_CHECKING:
    from rapo.explanations.evaluate import ModelEvaluation
    from rapo.explanations.judged import JudgedGrounding


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """One measure: its name, and for each model its value and interval. `leading` marks the one to
    look at first."""

    name: str
    cells: list[tuple[str, str]]
    leading: bool = False


def explained_models(report: Report) -> list[str]:
    """The names of the models, in the order of the cells."""
    return [name for key, name in MODELS if key in report.evaluate]


def measure_rows(report: Report) -> list[MeasureRow]:
    """All measures of the evaluated models; empty where none is evaluated."""
    models = [report.evaluate[key] for key, _ in MODELS if key in report.evaluate]
    if not models:
        return []
    dimensions = models[0]["explanations"]["grounding"]["dimensions"]

    def row(name: str, cell: Callable[[ModelEvaluation], tuple[str, str]], *, leading: bool = False) -> MeasureRow:
        return MeasureRow(name, [cell(model) for model in models], leading)

    return [
        row("grounding, mean", _mean, leading=True),
        *(row(f"grounding, {name}", _Dimension(name)) for name in dimensions),
        *([row("grounding, by a judge model", _judged)] if any(map(_verdicts, models)) else []),
        row("dimensions judged", lambda model: (percent(model["explanations"]["grounding"]["coverage"]), "")),
        row("different rationales", lambda model: (count(model["explanations"]["distinct_rationales"]), "")),
        row("score told from the text", _consistency),
        row("spread of the scores", lambda model: (fixed(model["spread"], 2), "")),
        row("different scores", lambda model: (count(model["distinct_scores"]), "")),
    ]


@dataclass(frozen=True, slots=True)
class _Dimension:
    name: str

    def __call__(self, model: ModelEvaluation) -> tuple[str, str]:
        found = model["explanations"]["grounding"]["dimensions"][self.name]
        if found["alike"] == 1.0:
            return fixed(0.0), "always alike"
        return fixed(found["srcc"]), interval(found["interval"])


def _mean(model: ModelEvaluation) -> tuple[str, str]:
    found = model["explanations"]["grounding"]
    return fixed(found["mean"]), interval(found["interval"])


def _verdicts(model: ModelEvaluation) -> JudgedGrounding | None:
    return model["explanations"].get("judged")


def _judged(model: ModelEvaluation) -> tuple[str, str]:
    found = _verdicts(model)
    if found is None:
        return fixed(None), ""
    left = f"without {count(found['unjudged'])}" if found["unjudged"] else ""
    return fixed(found["mean"]), ", ".join(filter(None, (interval(found["interval"]), left)))


def _consistency(model: ModelEvaluation) -> tuple[str, str]:
    found = model["explanations"]["consistency"]
    return fixed(found["srcc"]), interval(found["interval"])
