"""The tables that end a run: where the time went, how good the models are, what became of the
critiques."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.files.json_values import finite
from cluster.terminal.format import ABSENT, count, fixed, interval, percent

#: The evaluated models: key in the report, name for people.
MODELS: tuple[tuple[str, str], ...] = (("coldstart", "cold start"), ("rapo", "RAPO"))


def summary_tables(report: Mapping[str, Any], *, plain_dashes: bool = False) -> Iterator[Table | Text]:
    """What `report` holds, as rich tables and lines. `plain_dashes`: the terminal cannot show
    typographic ones."""
    for table in (_times(report), _evaluation(report), _critiques(report)):
        if table.row_count:
            yield Text()
            yield _with_plain_dashes(table) if plain_dashes else table
    paths = _paths(report)
    if paths:
        yield Text()
    yield from paths


def stage_seconds(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The stages that have a time, in the order in which they ran."""
    stages = report.get("stages") or {}
    pairs = [(name, finite((stage or {}).get("seconds"))) for name, stage in stages.items()]
    return [(name, seconds) for name, seconds in pairs if seconds is not None]


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True, header_style="dim")
    return table


def _times(report: Mapping[str, Any]) -> Table:
    table = _table("Where the time went", "stage", "seconds", "share")
    times = stage_seconds(report)
    total = sum(seconds for _, seconds in times)
    for name, seconds in times:
        table.add_row(name, fixed(seconds, 1), percent(seconds / total) if total else ABSENT)
    if len(times) > 1:
        table.add_section()
        table.add_row("total", fixed(total, 1), "")
    return table


def _evaluation(report: Mapping[str, Any]) -> Table:
    table = _table("Evaluation", "model", "SRCC", "95 % interval", "PLCC", "KRCC", "MAE", "parse rate", "n")
    for key, name in MODELS:
        row = (report.get("evaluate") or {}).get(key)
        if row:
            table.add_row(
                name,
                fixed(row.get("srcc")),
                interval(row.get("srcc_interval")),
                fixed(row.get("plcc")),
                fixed(row.get("krcc")),
                fixed(row.get("mae")),
                percent(row.get("parse_rate")),
                count(row.get("n")),
            )
    return table


def _critiques(report: Mapping[str, Any]) -> Table:
    table = _table("AesCoT", "critiques", "count", "share")
    aescot = report.get("aescot") or {}
    generated = finite(aescot.get("generated"))
    rows = [("generated", aescot.get("generated")), ("kept", aescot.get("kept"))]
    rows += [(f"rejected: {reason}", n) for reason, n in (aescot.get("rejected") or {}).items()]
    for name, n in rows:
        number = finite(n)
        if number is not None:
            table.add_row(name, count(number), percent(number / generated) if generated else "")
    return table


def _paths(report: Mapping[str, Any]) -> list[Text]:
    folder = (report.get("run") or {}).get("dir")
    places = [("report", Path(folder, "report.html")), ("model", Path(folder, "export"))] if folder else []
    return [Text.assemble((f" {name:<8}", "dim"), str(path)) for name, path in places if path.exists()]


def _with_plain_dashes(table: Table) -> Table:
    for column in table.columns:
        column._cells = [str(cell).replace(ABSENT, "-") for cell in column.cells]
    return table
