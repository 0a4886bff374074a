"""Command `rapo plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import ConfigPath, Set


def plan(
    config: ConfigPath = None,
    set_: Set = None,
    gpu: Annotated[str, typer.Option(help="A100-80, H100-80, H200, L40S or L4.")] = "H100-80",
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean length of an answer; default: a third of the most allowed.")
    ] = None,
    link: Annotated[
        float, typer.Option(min=0.1, help="Gbit/s between two nodes: all network cards of a node together.")
    ] = 100.0,
    node_gpus: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 8,
) -> None:
    """Estimate a run on GPUs from the configuration and the model's config.json: memory by role,
    bytes and seconds of a step, on GPUs and over the network. No GPU is needed."""
    from cluster.cli.plan_table import show_plan
    from rapo.plan.network import Network

    raise typer.Exit(0 if show_plan(config, set_ or [], gpu, answer_tokens, Network(node_gpus, link)) else 2)
