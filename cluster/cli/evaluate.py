"""Evaluate: the command `rapo evaluate` and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import Ca, Cert, Key, ServerName, Set, Tls, TokenFile, local


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, a model's folder, a file of predictions (FILE@LOW..HIGH or FILE@native with its scale) or "
            "HOST:PORT of a scorer. NAME=MODEL names it.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A TOML file with data.sources, a collection's folder, a label file, or a run's folder. Repeatable; "
            "default: that of the first run."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the results. What is answered in it is not asked again.", callback=local
        ),
    ] = Path("evaluation"),
    readout: Annotated[str, typer.Option(help="How scores are taken: expected, fast, greedy or sampled.")] = "expected",
    max_images: Annotated[int | None, typer.Option(min=1, help="Images of each set, sampled by the seed.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with the engines' settings.", callback=local)
    ] = None,
    set_: Set = None,
    token_file: TokenFile = None,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> None:
    """Measure models on test sets: PLCC, SRCC, KRCC, errors and parse rate with intervals, the
    paired differences between models, and a table beside published figures."""
    from cluster.remote.ray_session import prepare_environment
    from rapo.config import load_config

    overrides = [*(set_ or ()), f"evaluate.readout={readout}"]
    if max_images is not None:
        overrides.append(f"evaluate.max_images={max_images}")
    loaded = load_config(config, overrides)
    prepare_environment(loaded)
    from functools import partial

    from cluster.evaluation.command import evaluate_models
    from rapo.client.sync import ScorerClient

    secured = partial(ScorerClient, tls=tls, ca=ca, certificate=cert, key=key, server_name=server_name)
    evaluate_models(models, data or (), out, loaded, config, overrides, partial(secured, token_file=token_file))
