"""What a run leaves behind to be read: `report.json` for machines, `report.html` for people.

The page is one file that needs nothing else: no link, no script, images and plots inside. It is
made from the report and from what the stages wrote into the run folder; a part whose input is
missing is left out, with one line that says why, so that a report can be made of any run, however
far it got.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cluster.files.alerts import kind_name, read_alerts
from cluster.files.atomic import write_atomic, write_json
from cluster.files.json_values import finite
from cluster.files.jsonl import parse_jsonl
from cluster.report import gallery, plots
from cluster.terminal import format
from cluster.terminal.summary import MODELS, stage_seconds

_TEMPLATES = Path(__file__).parent / "templates"
_COLUMNS = ("uid", "target", "score", "text", "path")
#: Panels over RAPO steps: title, and the keys of a metrics row with the names of their lines.
_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Reward", (("reward_mean", "total"), ("absolute_mean", "absolute"), ("relative_mean", "relative"))),
    ("Share of completions that parse", (("parse_rate", ""),)),
    ("Entropy of the policy", (("entropy", ""),)),
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


def write_report(run_dir: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and `report.html` into `run_dir`, each atomically.

    `report` has the layout of report.json; any part of it may be missing. Raises `ResourceError` on
    a full disk.
    """
    write_json(run_dir / "report.json", report)
    write_atomic(run_dir / "report.html", render(run_dir, report))


def render(run_dir: Path, report: Mapping[str, Any]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": format.fixed, "percent": format.percent, "count": format.count,
        "interval": format.interval, "duration": format.duration, "kind_name": kind_name,
    }  # fmt: skip
    tables = {key: _read_predictions(run_dir, key) for key, _ in MODELS}
    rows, torn = _read_metrics(run_dir / "rapo" / "metrics.jsonl")
    times = stage_seconds(report)
    alerts = read_alerts(run_dir)
    return environment.get_template("report.html.j2").render(
        title=_title(report),
        verdict=_verdict(report),
        headline=_headline(report),
        evaluation=_evaluation(report),
        alerts=alerts,
        validation=_validation(rows, [alert["step"] for alert in alerts]),
        curves=_curves(rows, torn),
        scatter=_scatter(report, tables),
        gallery=_gallery(run_dir, tables),
        aescot=_aescot(report),
        times=times,
        longest=max((seconds for _, seconds in times), default=0.0) or 1.0,
        total=sum(seconds for _, seconds in times),
        data=_data(report),
        served=_served(report),
        versions=report.get("versions") or {},
        run=report.get("run") or {},
        config=_read_text(run_dir / "config.toml"),
    )


def _title(report: Mapping[str, Any]) -> str:
    name = (report.get("data") or {}).get("name")
    return f"RAPO on {name}" if name else "RAPO run"


def _score(report: Mapping[str, Any], model: str, key: str) -> float | None:
    return finite(((report.get("evaluate") or {}).get(model) or {}).get(key))


def _headline(report: Mapping[str, Any]) -> tuple[float, float] | None:
    before, after = _score(report, "coldstart", "srcc"), _score(report, "rapo", "srcc")
    return None if before is None or after is None else (before, after)


def _verdict(report: Mapping[str, Any]) -> str:
    before, after = _score(report, "coldstart", "srcc"), _score(report, "rapo", "srcc")
    n = _score(report, "rapo", "n") or _score(report, "coldstart", "n")
    where = f"on {format.count(n)} held-out images" if n else "on held-out images"
    if before is not None and after is not None:
        if f"{before:.3f}" == f"{after:.3f}":
            return f"RAPO left the rank correlation with human scores (SRCC) {where} at {after:.3f}."
        verb = "raised" if after > before else "lowered"
        sentence = f"RAPO {verb} the rank correlation with human scores (SRCC) {where} from {before:.3f} to {after:.3f}"
        return sentence + (", though the two intervals overlap." if _intervals_overlap(report) else ".")
    what = f"the rank correlation with human scores (SRCC) {where} is"
    if after is not None:
        return f"After RAPO, {what} {after:.3f}; no cold start to compare."
    if before is not None:
        return f"After the cold start, {what} {before:.3f}; no RAPO yet."
    return "No model has been evaluated yet."


def _intervals_overlap(report: Mapping[str, Any]) -> bool:
    evaluate = report.get("evaluate") or {}
    bounds: list[Any] = [(evaluate.get(key) or {}).get("srcc_interval") for key, _ in MODELS]
    before, after = bounds
    if not format.interval(before) or not format.interval(after):
        return False
    return bool(after[0] < before[1] and before[0] < after[1])


def _evaluation(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    evaluate = report.get("evaluate") or {}
    keys = ("srcc", "plcc", "krcc", "mae", "parse_rate", "n", "srcc_interval", "plcc_interval")
    return [(name, {k: evaluate[key].get(k) for k in keys}) for key, name in MODELS if evaluate.get(key)]


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows by ascending step, and the count of unreadable lines.

    A step may have several rows, one from training and one from validation, which complete each
    other; where a resumed run has repeated a step, the last value counts.
    """
    steps: dict[float, dict[str, Any]] = {}
    torn = 0
    for row in parse_jsonl((_read_text(path) or "").encode()):
        step = None if row is None else finite(row.get("step"))
        if row is None or step is None:
            torn += 1
        else:
            steps[step] = _merged(steps.get(step, {}), row)
    return [steps[step] for step in sorted(steps)], torn


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    nested = [key for key in old.keys() & new.keys() if isinstance(old[key], dict) and isinstance(new[key], dict)]
    return old | new | {key: old[key] | new[key] for key in nested}


def _curve(rows: list[dict[str, Any]], key: str, label: str = "") -> plots.Curve | None:
    points = []
    for row in rows:
        value: Any = row
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        number = finite(value)
        if number is not None:
            points.append((float(row["step"]), number))
    if not points:
        return None
    steps, values = np.asarray(points, dtype=np.float64).T
    return plots.Curve(label, steps, values)


def _validation(rows: list[dict[str, Any]], warned: list[int]) -> Part:
    curve = _curve(rows, "validation.srcc")
    if curve is None:
        return Part(missing="Validation is not shown: rapo/metrics.jsonl holds no validation SRCC.")
    svg = plots.validation_svg(curve, alt="SRCC on validation images over RAPO steps", marks=warned)
    note = "Dotted: steps at which a warning arose." if warned else ""
    return Part([Figure("SRCC on validation images, by step", Markup(svg))], note=note)


def _curves(rows: list[dict[str, Any]], torn: int) -> Part:
    if not rows:
        return Part(missing="Training curves are not shown: rapo/metrics.jsonl is missing or empty.")
    part, absent, longest = Part(), [], 0
    for title, keys in _PANELS:
        curves = [curve for key, label in keys if (curve := _curve(rows, key, label)) is not None]
        if curves:
            longest = max(longest, *(curve.steps.size for curve in curves))
            part.figures.append(Figure(title, Markup(plots.curves_svg(curves, alt=f"{title} over RAPO steps"))))
        else:
            absent.append(title)
    if not part.figures:
        return Part(missing="Training curves are not shown: rapo/metrics.jsonl holds none of the known metrics.")
    notes = []
    if (span := plots.window(longest)) > 1:
        notes.append(f"Thin: each step. Bold: mean over {span} steps.")
    if absent:
        notes.append(f"Not recorded: {'; '.join(absent)}.")
    if torn:
        notes.append(f"Unreadable lines in metrics.jsonl: {torn}.")
    part.note = " ".join(notes)
    return part


def _read_predictions(run_dir: Path, model: str) -> list[dict[str, Any]] | str:
    """The rows of one model's predictions, or why there are none."""
    path = run_dir / "evaluate" / f"{model}.parquet"
    if not path.is_file():
        return f"evaluate/{path.name} is missing"
    try:
        file = pq.ParquetFile(path)
        names = [name for name in _COLUMNS if name in file.schema_arrow.names]
        rows = file.read(columns=names).to_pylist()
    except (OSError, pa.ArrowException):
        return f"evaluate/{path.name} is not readable"
    if not {"uid", "target", "score"} <= set(names):
        return f"evaluate/{path.name} lacks uid, target or score"
    return rows or f"evaluate/{path.name} is empty"


def _valid(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows if finite(r["target"]) is not None and finite(r["score"]) is not None]


def _scatter(report: Mapping[str, Any], tables: Mapping[str, list[dict[str, Any]] | str]) -> Part:
    valid = {key: _valid(rows) for key, rows in tables.items() if isinstance(rows, list)}
    every = [number for rows in valid.values() for row in rows for number in (row["target"], row["score"])]
    part = Part()
    notes = []
    for key, name in MODELS:
        rows = tables[key]
        if isinstance(rows, str) or not valid[key]:
            why = rows if isinstance(rows, str) else "no valid prediction"
            notes.append(f"Predictions of the {name} model are not shown: {why}.")
            continue
        limits = (np.floor(min(every) * 20 - 0.2) / 20, np.ceil(max(every) * 20 + 0.2) / 20)
        points = np.asarray([(row["target"], row["score"]) for row in valid[key]], dtype=np.float64).T
        srcc = _score(report, key, "srcc")
        title = name[0].upper() + name[1:] + (f", SRCC {srcc:.3f}" if srcc is not None else "")
        svg = plots.scatter_svg(points[0], points[1], limits, alt=f"Predicted against human scores, {name}")
        part.figures.append(Figure(title, Markup(svg)))
        if invalid := len(rows) - len(valid[key]):
            notes.append(f"{name[0].upper() + name[1:]}: {invalid} of {len(rows):,} answers invalid, not drawn.")
    if part.figures:
        part.note = " ".join(["Dashed: predicted equals human score.", *notes])
    else:
        part.missing = " ".join(notes)
    return part


def _gallery(run_dir: Path, tables: Mapping[str, list[dict[str, Any]] | str]) -> dict[str, Any]:
    valid = {key: _valid(rows) for key, rows in tables.items() if isinstance(rows, list)}
    model = next((pair for pair in reversed(MODELS) if valid.get(pair[0])), None)
    if model is None:
        return {"images": [], "missing": "Images are not shown: there are no valid predictions.", "model": ""}
    before = {row["uid"]: row["score"] for row in valid.get("coldstart", [])} if model[0] == "rapo" else {}
    return {"images": gallery.choose(valid[model[0]], before, run_dir), "missing": "", "model": model[1]}


def _aescot(report: Mapping[str, Any]) -> dict[str, Any] | None:
    aescot = report.get("aescot") or {}
    generated, kept = finite(aescot.get("generated")), finite(aescot.get("kept"))
    if not generated or kept is None:
        return None
    rejected = [(reason, finite(n) or 0.0) for reason, n in (aescot.get("rejected") or {}).items()]
    rows = [("kept", kept), *((f"rejected: {reason}", n) for reason, n in rejected)]
    return {"generated": generated, "rows": rows}


def _data(report: Mapping[str, Any]) -> str:
    data = report.get("data") or {}
    counts = ", ".join(f"{format.count(n)} {split}" for split, n in (data.get("counts") or {}).items())
    parts = [f"{counts} images" if counts else ""]
    low_high = data.get("native_range")
    if isinstance(low_high, list | tuple) and len(low_high) == 2:
        parts.append(f"scores from {low_high[0]:g} to {low_high[1]:g}")
    skipped = data.get("skipped")
    if isinstance(skipped, Mapping):
        skipped = sum(finite(n) or 0 for n in skipped.values())
    if skipped:
        parts.append(f"{format.count(skipped)} unusable rows skipped")
    return "; ".join(part for part in parts if part)


def _served(report: Mapping[str, Any]) -> str:
    served = report.get("served") or {}
    images, seconds = finite(served.get("images")), finite(served.get("seconds"))
    if not images:
        return ""
    text = f"{format.count(images)} test images were scored over gRPC"
    text += f" in {format.duration(seconds)}" if seconds is not None else ""
    difference = finite(served.get("max_abs_difference"))
    return text + (f"; largest difference from the evaluation: {difference:.3f}." if difference is not None else ".")


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
