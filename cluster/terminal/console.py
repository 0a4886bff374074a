"""Console: shows the progress of a run on stderr and its final tables on stdout.

- At a terminal, the stage that runs has one live line, and each stage that has ended one line that
  stays.
- Elsewhere (a pipe, a log file, CI) the same facts are plain lines without control characters: the
  start and the end of a stage, and at most one line every `PLAIN_INTERVAL_S` seconds between them.
- Text from outside never reaches the terminal raw: control characters are removed, and markup is
  not interpreted.
"""

from __future__ import annotations

import os
import re
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import rich.console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from cluster.files.report import Report
from cluster.terminal.format import clock, duration, metric
from cluster.terminal.summary import summary_tables

#: Seconds between two lines of one stage where output is not a terminal.
PLAIN_INTERVAL_S = 5.0

_NAME_WIDTH = 12
_TABLE_WIDTH = 100  # of tables in a pipe or a file, which have no width of their own
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class StageHandle:
    """Progress of one stage, made by `Console.stage`. Not usable after the stage has ended."""

    def __init__(self, console: Console, name: str, total: int | None, now: float) -> None:
        self.name = name
        self.total = total
        self.completed = 0
        self.metrics: dict[str, object] = {}
        self.started = now
        self.reported = now
        self._console = console
        self._origin: tuple[int, float] | None = None

    def update(self, completed: int | None = None, **metrics: float | str | None) -> None:
        """Set the count of steps done, and show `metrics` (numbers or short words) beside the bar.

        A metric stays until it is given again; None removes it.
        """
        now = self._console.now()
        if completed is not None:
            self.completed = completed
            # The rate counts from the first step reported, so that neither start-up nor the steps
            # of an earlier run are part of it.
            self._origin = self._origin or (completed, now)
        self.metrics |= metrics
        self.metrics = {name: value for name, value in self.metrics.items() if value is not None}
        self._console._changed(self, now)

    def note(self, text: str) -> None:
        """Print a line about this stage."""
        self._console._say(f"{self.name}: {text}" if not self._console.interactive else f"  {text}", "dim")

    def elapsed(self, now: float) -> float:
        """Seconds since the stage began."""
        return now - self.started

    def remaining(self, now: float) -> float | None:
        """Seconds left at the rate so far, or None where it is not known yet."""
        if self.total is None or self._origin is None:
            return None
        done, since = self.completed - self._origin[0], now - self._origin[1]
        return since / done * max(self.total - self.completed, 0) if done > 0 else None

    def steps(self) -> str:
        """`37/200`, or `37` where the total is unknown."""
        return f"{self.completed:,}" if self.total is None else f"{self.completed:,}/{self.total:,}"

    def figures(self, between: str = "  ") -> str:
        """The metrics as `name=value`."""
        return between.join(f"{name}={metric(value)}" for name, value in self.metrics.items())


class Console:
    """The terminal of a run. Called from one thread; the live line refreshes itself.

    `stderr`, `stdout` and `clock` (monotonic seconds) default to the process's own.
    """

    def __init__(
        self,
        *,
        stderr: TextIO | None = None,
        stdout: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = clock
        self._err = _rich_console(stderr or sys.stderr)
        self._out = _rich_console(stdout or sys.stdout)
        self._progress: Progress | None = None
        self._tasks: dict[StageHandle, TaskID] = {}

    @property
    def interactive(self) -> bool:
        """Whether progress goes to a terminal that can show a live line."""
        return self._err.is_interactive

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[StageHandle]:
        """Show a stage of `total` steps (None: unknown) while the block runs. Its line stays, with
        a tick or a cross."""
        handle = StageHandle(self, name, total, self.now())
        self._begin(handle)
        try:
            yield handle
        except KeyboardInterrupt:
            self._end(handle, "interrupted")
            raise
        except BaseException:
            self._end(handle, "failed")
            raise
        self._end(handle, None)

    def skip(self, name: str, why: str) -> None:
        """Print that a stage is not run, and why."""
        if self.interactive:
            self._say(f"{self._glyph('–', '-')} {name:<{_NAME_WIDTH}} skipped: {why}", "dim")
        else:
            self._say(f"{name}: skipped: {why}")

    def note(self, text: str) -> None:
        """Print a line."""
        self._say(text, "dim")

    def warn(self, text: str) -> None:
        """Print that something is probably not as intended. The run continues."""
        self._say(f"warning: {text}", "yellow")

    def error(self, text: str) -> None:
        """Print what went wrong and what to do."""
        self._say(f"error: {text}", "bold red")

    def summary(self, report: Report) -> None:
        """Print the final tables to stdout. A part that the report lacks is left out."""
        for part in summary_tables(report, plain_dashes=not _is_utf(self._out)):
            # Paths must stay whole to be copied; tables must keep to the width.
            self._out.print(part, soft_wrap=isinstance(part, Text))

    def _begin(self, handle: StageHandle) -> None:
        if not self.interactive:
            steps = "" if handle.total is None else f", {handle.total:,} steps"
            self._say(f"{handle.name}: started{steps}")
            return
        if self._progress is None:
            self._progress = Progress(
                _Name(self),
                BarColumn(bar_width=None, table_column=Column(min_width=8, ratio=1)),
                _Counts(self),
                _Metrics(self),
                console=self._err,
                transient=True,
                refresh_per_second=4,
                expand=True,
                # A stdout that is not this terminal keeps what is printed to it.
                redirect_stdout=self._out.is_terminal,
            )
            self._progress.start()
        self._tasks[handle] = self._progress.add_task("", total=handle.total, handle=handle)

    def _changed(self, handle: StageHandle, now: float) -> None:
        if self._progress is not None and handle in self._tasks:
            self._progress.update(self._tasks[handle], completed=handle.completed)
        elif not self.interactive and now - handle.reported >= PLAIN_INTERVAL_S:
            handle.reported = now
            left = handle.remaining(now)
            parts = [handle.steps(), f"{clock(handle.elapsed(now))} elapsed"]
            parts += [] if left is None else [f"{clock(left)} left"]
            parts += [handle.figures(", ")] if handle.metrics else []
            self._say(f"{handle.name}: {', '.join(parts)}")

    def _end(self, handle: StageHandle, failure: str | None) -> None:
        if self._progress is not None and handle in self._tasks:
            self._progress.remove_task(self._tasks.pop(handle))
            if not self._tasks:
                self._progress.stop()
                self._progress = None
        seconds = duration(handle.elapsed(self.now()))
        reached = f"{failure} at {handle.steps()}" if failure and handle.completed else failure
        if not self.interactive:
            outcome = f"{failure} after" if failure else "done in"
            at = f" at {handle.steps()}" if failure and handle.completed else ""
            figures = f", {handle.figures(', ')}" if handle.metrics else ""
            self._say(f"{handle.name}: {outcome} {seconds}{at}{figures}")
        else:
            tick = ("[red]" + self._glyph("✗", "x")) if failure else ("[green]" + self._glyph("✓", "+"))
            line = Text.from_markup(tick)
            line.append(f" {_clean(handle.name):<{_NAME_WIDTH}}", "bold")
            line.append(f"{seconds:>13}")
            line.append(f"   {reached}" if reached else "", "red")
            line.append(f"   {_clean(handle.figures())}" if handle.metrics else "", "dim")
            self._err.print(line, soft_wrap=True)

    def _say(self, text: str, style: str = "") -> None:
        self._err.print(Text(_encodable(_clean(text), self._err), style), soft_wrap=True)

    def _glyph(self, glyph: str, plain: str) -> str:
        return glyph if _is_utf(self._err) else plain


class _StageColumn(ProgressColumn):
    """A column about the stage. It is rendered at every refresh, because time passes without
    updates."""

    def __init__(self, console: Console, table_column: Column | None = None) -> None:
        super().__init__(table_column or Column(no_wrap=True))
        self._now = console.now

    def render(self, task: Task) -> Text:
        return self.text(task.fields["handle"], self._now())

    @abstractmethod
    def text(self, handle: StageHandle, now: float) -> Text:
        """The column's text at the time `now`."""


class _Name(_StageColumn):
    def text(self, handle: StageHandle, now: float) -> Text:
        return Text(f"  {_clean(handle.name):<{_NAME_WIDTH}}", "bold")


class _Counts(_StageColumn):
    def text(self, handle: StageHandle, now: float) -> Text:
        left = handle.remaining(now)
        text = Text(f"{handle.steps():>9}", "cyan")
        text.append(f"  {clock(handle.elapsed(now)):>5}", "default")
        text.append(f"  {clock(left):>5} left" if left is not None else " " * 12, "dim")
        return text


class _Metrics(_StageColumn):
    def __init__(self, console: Console) -> None:
        super().__init__(console, Column(no_wrap=True, overflow="ellipsis", ratio=3))

    def text(self, handle: StageHandle, now: float) -> Text:
        return Text(" " + _clean(handle.figures()), "magenta")


def _rich_console(stream: TextIO) -> rich.console.Console:
    # rich would take FORCE_COLOR for a terminal and write escapes into files.
    live = stream.isatty() and not _in_ci() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return rich.console.Console(
        file=stream,
        force_terminal=live,
        force_interactive=live,
        color_system="auto" if live else None,
        width=None if live else _TABLE_WIDTH,
        highlight=False,
        emoji=False,
    )


def _in_ci() -> bool:
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no")


def _is_utf(console: rich.console.Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _clean(text: str) -> str:
    return _CONTROL.sub("", str(text))


def _encodable(text: str, console: rich.console.Console) -> str:
    return text.encode(console.encoding, "replace").decode(console.encoding)
