"""Rendering: the tables of an evaluation for the terminal, as Markdown and as a page of HTML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import rich.console
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.text import Text

from cluster.files.atomic import write_atomic, write_json
from cluster.terminal.text_tables import rich_table
from rapo.evaluation.comparison import Comparison
from rapo.evaluation.tables import Tables, TextTable, evaluation_tables

#: The files of an evaluation: its figures, and its tables.
RESULTS, MARKDOWN, PAGE = "results.json", "table.md", "table.html"

_TEMPLATES = Path(__file__).parent / "templates"


def write_tables(out: Path, comparison: Comparison) -> None:
    """Write `results.json`, `table.md` and `table.html`, each whole. Raises `ResourceError` on a
    full disk."""
    tables = evaluation_tables(comparison)
    write_json(out / RESULTS, comparison)
    write_atomic(out / MARKDOWN, markdown(tables))
    write_atomic(out / PAGE, page(tables))


def show(tables: Tables, console: rich.console.Console) -> None:
    """Print the tables, and the lines below them."""
    for table in tables.tables:
        console.print()
        console.print(rich_table(table))
    console.print()
    for note in tables.notes:
        console.print(Text(note))


def markdown(tables: Tables) -> str:
    """The tables in Markdown, the lines below them as a list."""
    parts = ["\n".join(_lines(table)) for table in tables.tables]
    parts.append("\n".join(f"- {_escaped(note)}" for note in tables.notes))
    return "\n\n".join(parts) + "\n"


def page(tables: Tables) -> str:
    """The tables as one HTML file that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("table.html.j2").render(tables=tables.tables, notes=tables.notes)


def _lines(table: TextTable) -> Iterator[str]:
    yield f"## {table.title}\n"
    yield f"| {' | '.join(map(_escaped, table.columns))} |"
    yield "|" + "---|" * table.words + "---:|" * (len(table.columns) - table.words)
    for section in table.sections:
        if len(table.sections) > 1:
            yield f"| **{_escaped(section.title)}** |" + " |" * (len(table.columns) - 1)
        for row in section.rows:
            yield f"| {' | '.join(map(_escaped, row))} |"


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
