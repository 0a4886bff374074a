"""Text tables: the tables of an evaluation as rich's."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from rapo.evaluation.tables import TextTable


def rich_table(table: TextTable) -> Table:
    """A table with a row for the title of each section."""
    made = Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for index, column in enumerate(table.columns):
        made.add_column(Text(column), justify="left" if index < table.words else "right", header_style="dim")
    for section in table.sections:
        if len(table.sections) > 1:
            made.add_row(Text(section.title, "bold"))
        for row in section.rows:
            made.add_row(*map(Text, row))
        made.add_section()
    return made
