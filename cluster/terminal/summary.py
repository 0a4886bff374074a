"""Summary: the tables that end a run: time by stage, evaluation, explanations, critiques, and where
the results are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.files.report import MODELS, Report
from cluster.terminal.explanations import explained_models, measure_rows
from cluster.terminal.format import ABSENT, count, fixed, interval, percent
from cluster.terminal.interval_line import interval_line
from cluster.terminal.text_tables import rich_table
from rapo.evaluation.tables import evaluation_tables


def summary_tables(report: Report, *, plain_dashes: bool = False) -> Iterator[Table | Text]:
    """`report` as rich tables and lines. `plain_dashes`: the terminal cannot show typographic
    ones."""
    for table in (_times(report), _evaluation(report), _explanations(report), _critiques(report)):
        if table.row_count:
            yield Text()
            yield _with_plain_dashes(table) if plain_dashes else table
    if line := interval_line(report.evaluate.get("rapo"), report.raters):
        yield Text()
        yield Text(f" {line}")
    if report.comparison is not None:
        yield Text()
        overview = evaluation_tables(report.comparison).tables[0]
        yield rich_table(replace(overview, sections=overview.sections[:1]))
        yield Text(" By data set. evaluate/table.html has intervals, errors, differences and published figures.")
    paths = _paths(report)
    if paths:
        yield Text()
    yield from paths


def stage_seconds(report: Report) -> list[tuple[str, float]]:
    """The finished stages in the order in which they ran."""
    return [(name, stage.seconds) for name, stage in report.stages.items()]


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True, header_style="dim")
    return table


def _times(report: Report) -> Table:
    table = _table("Where the time went", "stage", "seconds", "share")
    times = stage_seconds(report)
    total = sum(seconds for _, seconds in times)
    for name, seconds in times:
        table.add_row(name, fixed(seconds, 1), percent(seconds / total) if total else ABSENT)
    if len(times) > 1:
        table.add_section()
        table.add_row("total", fixed(total, 1), "")
    return table


def _evaluation(report: Report) -> Table:
    sets = f", mean over {len(report.comparison['sets'])} data sets" if report.comparison is not None else ""
    table = _table(f"Evaluation{sets}", "model", "SRCC", "95 % interval", "PLCC", "KRCC", "MAE", "parse rate", "n")
    for key, name in MODELS:
        if key in report.evaluate:
            row = report.evaluate[key]
            table.add_row(
                name,
                fixed(row["srcc"]),
                interval(row["srcc_interval"]),
                fixed(row["plcc"]),
                fixed(row["krcc"]),
                fixed(row["mae"]),
                percent(row["parse_rate"]),
                count(row["n"]),
            )
    return table


def _explanations(report: Report) -> Table:
    columns = [column for name in explained_models(report) for column in (name, "95 % interval")]
    table = _table("Explanations and resolution", "measure", *columns)
    for row in measure_rows(report):
        table.add_row(row.name, *(text for cell in row.cells for text in cell))
    return table


def _critiques(report: Report) -> Table:
    table = _table("AesCoT", "critiques", "count", "share")
    if report.aescot is not None:
        generated = report.aescot.generated
        rows = {"generated": generated, "kept": report.aescot.kept}
        rows |= {f"rejected: {reason}": n for reason, n in report.aescot.rejected.items()}
        for name, n in rows.items():
            table.add_row(name, count(n), percent(n / generated) if generated else "")
    return table


def _paths(report: Report) -> list[Text]:
    folder = report.run.dir
    places = [("report", Path(folder, "report.html")), ("model", Path(folder, "export"))]
    return [Text.assemble((f" {name:<8}", "dim"), str(path)) for name, path in places if path.exists()]


def _with_plain_dashes(table: Table) -> Table:
    for column in table.columns:
        column._cells = [str(cell).replace(ABSENT, "-") for cell in column.cells]
    return table
