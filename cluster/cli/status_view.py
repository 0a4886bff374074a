"""StatusView: a `RunStatus` on a terminal, printed once or refreshed while the run works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.cli.status import FleetStatus, Progress, RunStatus, StageStatus, run_status
from cluster.files.alerts import AlertRow, kind_name, printable
from cluster.files.json_values import JsonRow, finite
from cluster.files.run_state import worker_counts
from cluster.terminal.format import ABSENT, clock, count, duration, fixed, metric, percent
from rapo.storage.urls import is_url

#: So many faults and warnings are shown; report.html and faults.jsonl have all of them.
_LAST = 3
#: A fleet of up to so many workers is listed whole. Of a larger one those that are not ready come
#: first.
_MOST_WORKERS = 24
_COLOURS = {"running": "green", "finished": "green", "not running": "yellow", "ready": "green", "gone": "red"}


def show_status(out: Path, *, as_json: bool = False) -> None:
    """Print the status of the run in `out`, a folder or a URL; `RunFolderError` where it holds no
    run."""
    console = Console()
    with _reader(out) as read:
        status = read()
    if as_json:
        console.file.write(status.to_json() + "\n")
        return
    for part in view(status):
        # Lines are not broken at the terminal's width, so that they can be copied and searched.
        console.print(part, soft_wrap=isinstance(part, Text))


def watch_status(out: Path, every_s: float, stop: Callable[[], bool] = lambda: False) -> None:
    """Show the status until it is interrupted, or until no run works there any more."""
    with suppress(KeyboardInterrupt), _reader(out) as read:
        status = read()
        with Live(Group(*view(status)), refresh_per_second=4) as live:
            while status.driver.state == "running" and not stop():
                time.sleep(every_s)
                status = read()
                live.update(Group(*view(status)))


@contextmanager
def _reader(out: Path) -> Iterator[Callable[[], RunStatus]]:
    if not is_url(out):
        yield partial(run_status, out)
        return
    from cluster.cli.stored_status import stored_run

    with stored_run(out) as run:
        yield run.status


def view(status: RunStatus) -> Iterator[RenderableType]:
    yield _headline(status)
    yield _stages(status.stages)
    if status.rapo.step is not None:
        yield _progress(status.rapo)
    if status.fleet.workers:
        yield _fleet(status.fleet)
    yield from _last_lines("fault", [_fault(row) for row in status.faults])
    yield from _last_lines("warning", [_warning(alert) for alert in status.alerts])


def _headline(status: RunStatus) -> Text:
    driver = status.driver
    text = Text(f"{status.run}  ").append(driver.state, _COLOURS[driver.state])
    if driver.pid is not None:
        text.append(f" (process {driver.pid})", "dim")
    if driver.updated_s_ago is not None and driver.state != "finished":
        text.append(f", last update {duration(driver.updated_s_ago)} ago", "dim")
    return text


def _stages(stages: list[StageStatus]) -> Table:
    table = Table()
    for column in ("stage", "state", "seconds", "last step"):
        table.add_column(column)
    for stage in stages:
        figures = "  ".join(f"{key} {value:.3f}" for key, value in stage.metrics.items())
        step = f"{stage.step}  {figures}" if stage.step is not None else ""
        table.add_row(stage.stage, stage.state, fixed(stage.seconds, 1) if stage.seconds is not None else "", step)
    return table


def _progress(rapo: Progress) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False)
    table.add_column(style="dim")
    table.add_column()
    steps = count(rapo.step) + (f" of {count(rapo.steps)}" if rapo.steps is not None else "")
    if rapo.version is not None:
        steps += f", weight version {rapo.version}"
    if rapo.seconds_left:
        steps += f", {clock(rapo.seconds_left)} left"
    table.add_row("step", steps)
    if rapo.step_seconds:
        parts = [f"{part} {percent(s / rapo.step_seconds, 0)}" for part, s in rapo.seconds.items()]
        table.add_row("time", f"{duration(rapo.step_seconds)} a step: " + ", ".join(parts))
    if rapo.idle:
        table.add_row("idle", ", ".join(f"{side} {percent(share, 0)}" for side, share in rapo.idle.items()))
    if rapo.staleness:
        mean, worst = (metric(rapo.staleness.get(f"staleness_{key}")) for key in ("mean", "worst"))
        table.add_row("staleness", f"mean {mean}, worst {worst}, {rapo.dropped} groups dropped lately")
    if rapo.window:
        table.add_row("groups", ", ".join(f"{count(number)} {state}" for state, number in rapo.window.items()))
    if rapo.metrics:
        table.add_row("metrics", "  ".join(f"{key} {metric(value)}" for key, value in rapo.metrics.items()))
    for result in rapo.validation:
        table.add_row("validation", f"SRCC {fixed(result.srcc)}, PLCC {fixed(result.plcc)} at step {result.step}")
    return table


def _fleet(fleet: FleetStatus) -> Table:
    workers = sorted(fleet.workers, key=lambda worker: worker.get("state") == "ready")
    title = ", ".join(f"{number} {state}" for state, number in worker_counts(fleet.workers).items())
    if fleet.wanted is not None:
        title += f", {fleet.wanted} wanted"
    table = Table(title=f"Rollout workers: {title}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("worker", "state", "node", "version", "running", "groups", "tokens/s"):
        table.add_column(column, justify="left" if column in ("worker", "state", "node") else "right", no_wrap=True)
    for worker in workers[:_MOST_WORKERS]:
        state = str(worker.get("state"))
        table.add_row(
            str(worker.get("name")),
            Text(state, _COLOURS.get(state, "yellow")),
            str(worker.get("node") or ABSENT),
            *(count(worker.get(key)) for key in ("version", "running", "groups")),
            fixed(worker.get("tokens_per_second"), 0),
        )
    if len(workers) > _MOST_WORKERS:
        table.caption = f"and {len(workers) - _MOST_WORKERS} more"
    return table


def _last_lines(kind: str, lines: list[Text]) -> Iterator[Text]:
    if len(lines) > _LAST:
        yield Text(f"{len(lines)} {kind}s, the last {_LAST}:")
    yield from lines[-_LAST:]


def _warning(alert: AlertRow) -> Text:
    return Text(f"step {alert['step']}  {kind_name(alert['kind'])}: ", "yellow").append(alert["text"], "default")


def _fault(row: JsonRow) -> Text:
    when = finite(row.get("time"))
    stamp = time.strftime("%H:%M:%S", time.localtime(when)) if when is not None else ABSENT
    where = f" on {row['node']}" if row.get("node") else ""
    head = f"{stamp}  step {row.get('step', ABSENT)}  {row.get('role')}{where} {row.get('kind')}: "
    outcome = f"{row.get('cause') or 'cause unknown'}; {row.get('action') or 'nothing done'}"
    return Text(head, "red").append(printable(outcome), "default")
