"""Doctor: checks whether what rapo needs is installed, loads and is large enough on this machine.

- Nothing is changed and nothing is started.
- Each check is a row of a table: what was checked, what was found, its state, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import rich.console
from rich import box
from rich.table import Table
from rich.text import Text

from cluster.cli.check_result import CheckResult
from cluster.cli.doctor_machine import check_machine
from cluster.cli.doctor_packages import check_imports, check_packages
from cluster.cli.import_check import import_packages

_COLOURS = {"ok": "green", "warn": "yellow", "wrong": "bold red"}


def run_doctor(console: rich.console.Console | None = None) -> bool:
    """Print the table of all checks; False where anything is wrong (a warning is not)."""
    console = console or rich.console.Console()
    with console.status("importing torch, torchvision and vLLM in a process of their own"):
        results = list(check_all())
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title="rapo doctor", title_justify="left")
    for column in ("check", "found", "state", "what to do"):
        table.add_column(column, overflow="fold")
    for result in results:
        state = Text(result.state, style=_COLOURS[result.state])
        table.add_row(Text(result.check), Text(result.found), state, Text(result.advice))
    console.print(table)
    count = {state: sum(result.state == state for result in results) for state in _COLOURS}
    console.print(f"{count['wrong']} wrong, {count['warn']} to look at, {count['ok']} in order")
    return count["wrong"] == 0


def check_all() -> Iterator[CheckResult]:
    imported = import_packages()
    yield from check_packages()
    yield from check_imports(imported)
    yield from check_machine(imported.packages.get("torch"))
