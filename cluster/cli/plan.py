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
) -> None:
    """Estimate a run on GPUs from the configuration and the model's config.json: memory by role,
    bytes and seconds of a step. No GPU is needed."""
    from cluster.cli.plan_table import show_plan

    raise typer.Exit(0 if show_plan(config, set_ or [], gpu, answer_tokens) else 2)
