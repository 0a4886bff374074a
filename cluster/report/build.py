"""Report: writes `report.json` for machines and `report.html` for people.

- The page is one file that needs nothing else: no link, no script, images and plots inside.
- It is made from the report and from the files of the stages. A part whose input is missing or
  damaged is replaced by a line that says so.
- The same run makes the same page.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.files.alerts import kind_name, read_alerts
from cluster.files.atomic import write_atomic, write_json
from cluster.files.report import MODELS, Report
from cluster.report.sections import curves_part, gallery_part, scatter_part, validation_part
from cluster.report.sentences import (
    attributes_line,
    data_line,
    explanations_verdict,
    headline,
    resolution_verdict,
    served_line,
    title,
    verdict,
)
from cluster.report.tables import read_metrics, read_tables
from cluster.terminal import format
from cluster.terminal.explanations import explained_models, measure_rows
from cluster.terminal.interval_line import interval_line
from cluster.terminal.summary import stage_seconds
from rapo.evaluation.tables import evaluation_tables

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_dir: Path, report: Report) -> None:
    """Write `report.json` and `report.html` into `run_dir`, each atomically. Raises `ResourceError`
    on a full disk."""
    write_json(run_dir / "report.json", report)
    write_atomic(run_dir / "report.html", render(run_dir, report))


def render(run_dir: Path, report: Report) -> str:
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
    tables = read_tables(run_dir)
    metrics = read_metrics(run_dir)
    times = stage_seconds(report)
    alerts = read_alerts(run_dir)
    return environment.get_template("report.html.j2").render(
        title=title(report),
        verdict=verdict(report),
        explained=" ".join(filter(None, (explanations_verdict(report), resolution_verdict(report)))),
        headline=headline(report),
        evaluation=[(name, report.evaluate[key]) for key, name in MODELS if key in report.evaluate],
        measures=measure_rows(report),
        measured_models=explained_models(report),
        attributes=attributes_line(report),
        alerts=alerts,
        validation=validation_part(metrics, [alert["step"] for alert in alerts]),
        curves=curves_part(metrics),
        scatter=scatter_part(report, tables),
        gallery=gallery_part(run_dir, tables),
        aescot=report.aescot,
        times=times,
        longest=max((seconds for _, seconds in times), default=0.0) or 1.0,
        total=sum(seconds for _, seconds in times),
        data=data_line(report),
        served=served_line(report),
        interval=interval_line(report.evaluate.get("rapo"), report.raters),
        by_set=None if report.comparison is None else evaluation_tables(report.comparison),
        versions=report.versions,
        seed=report.run.seed,
        raters=report.raters,
        config=_read_text(run_dir / "config.toml"),
    )


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
