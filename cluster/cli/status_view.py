"""The facts of `cluster.cli.status` on a terminal, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.cli.status import run_facts, states, to_json
from cluster.files.alerts import name
from cluster.files.jsonl import finite
from cluster.terminal.format import ABSENT, clock, count, duration, fixed, metric, percent

#: Of warnings and faults, the last ones say how the run stands; all are in report.html and
#: faults.jsonl.
_LAST = 3
#: A fleet is listed whole up to so many workers; of a larger one, those first that are not at work.
_MOST_WORKERS = 24
_COLOURS = {"running": "green", "finished": "green", "not running": "yellow", "ready": "green", "gone": "red"}


def show_status(out: Path, *, as_json: bool = False) -> None:
    """Print what the run in `out` is about. Raises `RunFolderError` where `out` is no run
    folder."""
    console = Console()
    facts = run_facts(out)
    if as_json:
        console.file.write(to_json(facts) + "\n")
        return
    for part in view(facts):
        # Lines are not broken at the width of the terminal, so that they can be copied and searched
        # for.
        console.print(part, soft_wrap=isinstance(part, Text))


def watch_status(out: Path, every_s: float, stop: Callable[[], bool] = lambda: False) -> None:
    """Show it until interrupted, or until nobody works in the folder any more."""
    facts = run_facts(out)
    with Live(Group(*view(facts)), refresh_per_second=4) as live:
        while facts["driver"]["state"] == "running" and not stop():
            time.sleep(every_s)
            facts = run_facts(out)
            live.update(Group(*view(facts)))


def view(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield _headline(facts)
    yield _stages(facts)
    if facts["rapo"]["step"] is not None:
        yield _rapo(facts["rapo"])
    if facts["fleet"]["workers"]:
        yield _fleet(facts["fleet"])
    for kind, rows, line in (("fault", facts["faults"], _fault), ("warning", facts["warnings"], _warning)):
        if len(rows) > _LAST:
            yield Text(f"{len(rows)} {kind}s, the last {_LAST}:")
        yield from map(line, rows[-_LAST:])


def _headline(facts: Mapping[str, Any]) -> Text:
    driver = facts["driver"]
    text = Text(f"{facts['run']}  ").append(driver["state"], _COLOURS.get(driver["state"], ""))
    if driver["pid"] is not None:
        text.append(f" (process {driver['pid']})", "dim")
    if driver["updated_s_ago"] is not None and driver["state"] != "finished":
        text.append(f", last heard of {duration(driver['updated_s_ago'])} ago", "dim")
    return text


def _stages(facts: Mapping[str, Any]) -> Table:
    table = Table()
    for column in ("stage", "state", "seconds", "last step"):
        table.add_column(column)
    for stage in facts["stages"]:
        step = ""
        if "step" in stage:
            step = f"{stage['step']}  " + "  ".join(f"{key} {value:.3f}" for key, value in stage["metrics"].items())
        seconds = fixed(stage["seconds"], 1) if stage["seconds"] is not None else ""
        table.add_row(stage["stage"], stage["state"], seconds, step)
    return table


def _rapo(rapo: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False)
    table.add_column(style="dim")
    table.add_column()
    steps = count(rapo["step"]) + (f" of {count(rapo['steps'])}" if rapo["steps"] is not None else "")
    if rapo["version"] is not None:
        steps += f", weight version {rapo['version']}"
    if rapo.get("seconds_left"):
        steps += f", {clock(rapo['seconds_left'])} left"
    table.add_row("step", steps)
    if rapo["step_seconds"]:
        parts = [f"{part} {percent(s / rapo['step_seconds'], 0)}" for part, s in rapo["seconds"].items()]
        table.add_row("time", f"{duration(rapo['step_seconds'])} a step: " + ", ".join(parts))
    if rapo["idle"]:
        table.add_row("idle", ", ".join(f"{side} {percent(share, 0)}" for side, share in rapo["idle"].items()))
    if rapo["staleness"]:
        lag = rapo["staleness"]
        mean, worst = metric(lag.get("staleness_mean")), metric(lag.get("staleness_worst"))
        table.add_row("staleness", f"mean {mean}, worst {worst}, {rapo['dropped']} groups dropped lately")
    if rapo["window"]:
        table.add_row("groups", ", ".join(f"{count(number)} {word}" for word, number in rapo["window"].items()))
    if rapo["metrics"]:
        table.add_row("metrics", "  ".join(f"{key} {metric(value)}" for key, value in rapo["metrics"].items()))
    for row in rapo["validation"]:
        table.add_row(
            "validation", f"SRCC {fixed(row.get('srcc'))}, PLCC {fixed(row.get('plcc'))} at step {row['step']}"
        )
    return table


def _fleet(fleet: Mapping[str, Any]) -> Table:
    workers = sorted(fleet["workers"], key=lambda worker: worker.get("state") == "ready")
    title = ", ".join(f"{number} {state}" for state, number in states(fleet["workers"]).items())
    if fleet["wanted"] is not None:
        title += f", {fleet['wanted']} wanted"
    table = Table(title=f"Rollout workers: {title}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("worker", "state", "node", "version", "running", "groups", "tokens/s"):
        table.add_column(column, justify="left" if column in ("worker", "state", "node") else "right", no_wrap=True)
    for worker in workers[:_MOST_WORKERS]:
        state = str(worker.get("state"))
        table.add_row(
            str(worker.get("name")),
            Text(state, _COLOURS.get(state, "yellow")),
            str(worker.get("node") or ABSENT),
            *(count(finite(worker.get(key))) if worker.get(key) is not None else ABSENT
              for key in ("version", "running", "groups")),
            fixed(worker.get("tokens_per_second"), 0),
        )  # fmt: skip
    if len(workers) > _MOST_WORKERS:
        table.caption = f"and {len(workers) - _MOST_WORKERS} more"
    return table


def _warning(finding: Mapping[str, Any]) -> Text:
    return Text(f"step {finding['step']}  {name(finding['kind'])}: ", "yellow").append(finding["text"], "default")


def _fault(row: Mapping[str, Any]) -> Text:
    when = finite(row.get("time"))
    stamp = time.strftime("%H:%M:%S", time.localtime(when)) if when is not None else ABSENT
    where = f" on {row['node']}" if row.get("node") else ""
    head = f"{stamp}  step {row.get('step', ABSENT)}  {row.get('role')}{where} {row.get('kind')}: "
    said = f"{row.get('cause') or 'cause unknown'}; {row.get('action') or 'nothing done'}"
    printable = "".join(letter for letter in " ".join(said.split()) if letter.isprintable())
    return Text(head, "red").append(printable, "default")
