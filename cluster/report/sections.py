"""Report sections: the figures of the page, or for each section the line that says why it has
none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from cluster.files.report import MODELS, Report
from cluster.report import gallery, plots
from cluster.report.sentences import srcc
from cluster.report.tables import Metrics, Table

#: Panels over RAPO steps: title, and the keys of a metrics row with the names of their lines.
_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Reward", (("reward_mean", "total"), ("absolute_mean", "absolute"), ("relative_mean", "relative"))),
    ("Share of completions that parse", (("parse_rate", ""),)),
    ("Entropy of the policy", (("entropy", ""),)),
    ("Mean grounding on validation images", (("validation.grounding", ""),)),
    ("Loss", (("loss", ""),)),
    ("KL from the reference policy", (("kl", ""),)),
    ("KL between sampler and learner", (("mismatch_kl", ""),)),
    ("Staleness (steps)", (("staleness_mean", "mean"), ("staleness_worst", "worst"))),
    ("Idle share", (("idle_learner", "learner"), ("idle_rollout", "rollout"))),
    ("Seconds per step", tuple((f"seconds.{part}", part) for part in ("rollout", "reward", "learner", "weights"))),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its caption."""

    title: str
    svg: Markup


@dataclass(slots=True)
class Part:
    """A section's figures, or the line that says why there are none; `note` goes below them."""

    figures: list[Figure] = field(default_factory=list)
    missing: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images as the `model` of this name scored them, or the line that says why there are none."""

    images: list[gallery.GalleryImage] = field(default_factory=list)
    model: str = ""
    missing: str = ""


def validation_part(metrics: Metrics, warned: list[int]) -> Part:
    """`warned` are the steps at which a warning arose."""
    curve = metrics.curve("validation.srcc")
    if curve is None:
        return Part(missing="Validation is not shown: rapo/metrics.jsonl holds no validation SRCC.")
    svg = plots.validation_svg(curve, alt="SRCC on validation images over RAPO steps", marks=warned)
    note = "Dotted: steps at which a warning arose." if warned else ""
    return Part([Figure("SRCC on validation images, by step", Markup(svg))], note=note)


def curves_part(metrics: Metrics) -> Part:
    if not metrics.rows:
        return Part(missing="Training curves are not shown: rapo/metrics.jsonl is missing or empty.")
    part, absent, zero, longest = Part(), [], [], 0
    for title, keys in _PANELS:
        curves = [curve for key, label in keys if (curve := metrics.curve(key, label)) is not None]
        if curves and not any(curve.values.any() for curve in curves):
            zero.append(title)
        elif curves:
            longest = max(longest, *(curve.steps.size for curve in curves))
            part.figures.append(Figure(title, Markup(plots.curves_svg(curves, alt=f"{title} over RAPO steps"))))
        else:
            absent.append(title)
    if not part.figures and not zero:
        return Part(missing="Training curves are not shown: rapo/metrics.jsonl holds none of the known metrics.")
    notes = []
    if (span := plots.window(longest)) > 1:
        notes.append(f"Thin: each step. Bold: mean over {span} steps.")
    if zero:
        notes.append(f"Zero at every step, not shown: {'; '.join(zero)}.")
    if absent:
        notes.append(f"Not recorded: {'; '.join(absent)}.")
    if metrics.unreadable:
        notes.append(f"Unreadable lines in metrics.jsonl: {metrics.unreadable}.")
    part.note = " ".join(notes)
    return part


def scatter_part(report: Report, tables: Mapping[str, Table]) -> Part:
    every = [number for table in tables.values() for point in table.points for number in point]
    part, notes = Part(), []
    for key, name in MODELS:
        table = tables[key]
        if table.missing:
            notes.append(f"Predictions of the {name} model are not shown: {table.missing}.")
            continue
        limits = (np.floor(min(every) * 20 - 0.2) / 20, np.ceil(max(every) * 20 + 0.2) / 20)
        target, score = np.asarray(table.points, dtype=np.float64).T
        value = srcc(report, key)
        title = name[0].upper() + name[1:] + (f", SRCC {value:.3f}" if value is not None else "")
        alt = f"Predicted against {report.raters} scores, {name}"
        svg = plots.scatter_svg(target, score, limits, raters=report.raters, alt=alt)
        part.figures.append(Figure(title, Markup(svg)))
        if invalid := len(table.rows) - len(target):
            notes.append(f"{name[0].upper() + name[1:]}: {invalid} of {len(table.rows):,} answers invalid, not shown.")
    if part.figures:
        part.note = " ".join([f"Dashed: predicted equals {report.raters} score.", *notes])
    else:
        part.missing = " ".join(notes)
    return part


def gallery_part(run_dir: Path, tables: Mapping[str, Table]) -> Gallery:
    """Images of the last model that has predictions."""
    model = next((pair for pair in reversed(MODELS) if tables[pair[0]].points), None)
    if model is None:
        return Gallery(missing="Images are not shown: there are no valid predictions.")
    before = {row.uid: row.score for row in tables["coldstart"].rows} if model[0] == "rapo" else {}
    return Gallery(gallery.choose(tables[model[0]].rows, before, run_dir), model[1])
