"""`rapo serve --models FILE`: which model versions are served is written in a file, and a change of
the file is a roll-out.

    default = "v2"

    [models]
    v1 = "runs/first/export"
    v2 = "runs/second/export"

Folders are relative to the file. What is wrong with the file is logged, and what is served stays as
it is.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rapo.errors import ConfigError, ModelError, RapoError
from rapo.models.folder import check_model_folder
from services.gateway.reloading import ReloadingFile, read_small


@dataclass(frozen=True, slots=True)
class Models:
    """Version names with their model folders, and which one answers where none is asked for."""

    default: str
    folders: dict[str, Path]


class Server(Protocol):
    """What a roll-out needs of `services.app.ScorerServer`."""

    @property
    def versions(self) -> dict[str, Path]: ...
    @property
    def default(self) -> str: ...
    def add(self, model_dir: Path, version: str) -> None: ...
    def set_default(self, version: str) -> None: ...
    def remove(self, version: str) -> None: ...


def read_models(path: Path) -> Models:
    """Raises `ConfigError` for a file that cannot be read, is not of this form, or names what is no
    model folder."""
    try:
        content = tomllib.loads(read_small(path, "--models").decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if unknown := sorted(content.keys() - {"default", "models"}):
        raise ConfigError(f"{path}: unknown key '{unknown[0]}'; it takes default and [models]")
    models, default = content.get("models"), content.get("default")
    if not isinstance(models, dict) or not models or not all(isinstance(folder, str) for folder in models.values()):
        raise ConfigError(f'{path} needs a table [models] with lines such as v1 = "DIR/export"')
    if not isinstance(default, str) or default not in models:
        raise ConfigError(f"{path}: default = {default!r} is not among its models: {', '.join(models)}")
    folders = {version: (path.parent / folder).resolve() for version, folder in models.items()}
    for version, folder in folders.items():
        try:
            check_model_folder(folder)
        except ModelError as error:
            raise ConfigError(f"{path}: model {version!r}: {error}") from error
    return Models(default, folders)


def watch_models(path: Path) -> ReloadingFile[Models]:
    """The file's content, read again when it changes; `ConfigError` where it cannot be used from
    the start."""
    return ReloadingFile((path,), lambda: read_models(path))


def roll_out(server: Server, wanted: Models) -> None:
    """Serve exactly what is wanted: start what is new, switch the default, then let go of the rest.
    No call fails meanwhile.

    Raises what starting a version raises; what was started until then is taken away again, and the
    default stays.
    """
    served = server.versions
    started: list[str] = []
    # Names that get other weights come last: they cannot be taken back.
    new = sorted((v for v in wanted.folders if served.get(v) != wanted.folders[v]), key=lambda v: v in served)
    try:
        for version in new:
            server.add(wanted.folders[version], version)
            if version not in served:
                started.append(version)
    except RapoError:
        for version in started:
            server.remove(version)
        raise
    if server.default != wanted.default:
        server.set_default(wanted.default)
    for version in served:
        if version not in wanted.folders:
            server.remove(version)
