"""Options: the arguments and options that several commands of `rapo` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapo.storage.urls import not_local, not_stored


def local(path: Path | None) -> Path | None:
    """The path of a file or folder of this machine. Raises `typer.BadParameter` for a URL."""
    problem = None if path is None else not_local(path)
    if problem is not None:
        raise typer.BadParameter(problem)
    return path


def stored(path: Path | None) -> Path | None:
    """A path, or the URL of a folder in object storage. Raises `typer.BadParameter` for a URL that
    cannot be opened."""
    problem = None if path is None else not_stored(path)
    if problem is not None:
        raise typer.BadParameter(problem)
    return path


ConfigPath = Annotated[
    Path | None, typer.Argument(help="TOML file; default: the embedded configuration for CPUs.", callback=local)
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder or URL of the run. An unfinished run in it is continued.", callback=stored
    ),
]
Server = Annotated[str, typer.Option(help="HOST:PORT of a scorer.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the token for the scorer.", callback=local)]
Tls = Annotated[bool, typer.Option("--tls", help="Use TLS and trust the system's CAs.")]
Ca = Annotated[Path | None, typer.Option(help="Use TLS and trust this CA (PEM file).", callback=local)]
Cert = Annotated[Path | None, typer.Option(help="PEM file of this client's certificate.", callback=local)]
Key = Annotated[Path | None, typer.Option(help="PEM file of the key of --cert.", callback=local)]
ServerName = Annotated[str | None, typer.Option(help="Name in the scorer's certificate, if it is not HOST.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; overrides the file. Repeatable.")]
Upstream = Annotated[
    list[str], typer.Option(help="HOST:PORT of a gRPC proxy of Ray Serve, or of a name for several. Repeatable.")
]
SecretFile = Annotated[Path, typer.Option(help="File with the secret that the replicas know as well.", callback=local)]
