"""PlanTable: what a configuration would take on GPUs, as tables. Nothing is started and no GPU is
needed."""

from __future__ import annotations

from pathlib import Path

import rich.console
from rich import box
from rich.table import Table

from rapo.config import load_config
from rapo.plan.cards import card_named
from rapo.plan.estimate import Estimate, estimate
from rapo.plan.network import Network

_GB = 1e9


def show_plan(
    config: Path | None, overrides: list[str], card: str, answer_tokens: int | None, network: Network
) -> bool:
    """Print the plan; False where a role does not fit its GPU. An answer has `answer_tokens`
    tokens, or a third of the most that are allowed."""
    loaded = load_config(config, overrides)
    tokens = answer_tokens or max(1, loaded.policy.max_completion_tokens // 3)
    found = estimate(loaded, card_named(card), tokens, network)
    console = rich.console.Console(soft_wrap=True)
    console.print(_head(found, tokens))
    console.print(_memory(found))
    for note in _notes(found):
        console.print(note)
    console.print(_traffic(found))
    console.print(_times(found))
    console.print("Arithmetic, not a measurement: docs/gpu.md says how each figure comes about.")
    return all(role.fits for role in found.memory)


def _head(found: Estimate, tokens: int) -> str:
    shape = found.shape
    return (
        f"{shape.parameters / 1e9:.2f} billion parameters (text {shape.text_parameters / 1e9:.2f}, vision "
        f"{shape.vision_parameters / 1e9:.2f}), on {found.card.name}, answers of {tokens} tokens; "
        f"{_nodes(found)}"
    )


def _nodes(found: Estimate) -> str:
    if found.nodes == 1:
        return "one node"
    return f"{found.nodes} nodes of {found.network.node_gpus} GPUs with {found.network.gbit:g} Gbit/s each"


def _memory(found: Estimate) -> Table:
    table = _table("memory of a process on its GPU, GB", "role", "processes", "items", "sum", "of", "")
    for role in found.memory:
        items = ", ".join(f"{name} {size / _GB:.1f}" for name, size in role.items.items() if size >= 5e7)
        verdict = "fits" if role.fits else "DOES NOT FIT"
        table.add_row(role.role, str(role.count), items, f"{role.total / _GB:.1f}", f"{role.limit / _GB:.1f}", verdict)
    return table


def _notes(found: Estimate) -> list[str]:
    notes = [f"a rollout worker's cache holds {found.sequences} sequences of full length"]
    notes += [f"host memory: {name} {size / _GB:.1f} GB" for name, size in found.host.items() if size]
    return notes


def _traffic(found: Estimate) -> Table:
    table = _table("bytes of a step, GB", "path", "GB")
    for path, size in found.traffic.items():
        table.add_row(path, f"{size / _GB:.1f}")
    return table


def _times(found: Estimate) -> Table:
    table = _table("time of a step, seconds", "part", "s", "bound by")
    for part in found.parts:
        table.add_row(part.name, f"{part.seconds:.1f}", part.bound)
    table.add_row("step", f"{found.step_seconds:.1f}", found.step_bound)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
