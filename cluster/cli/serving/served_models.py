"""ServedModels: the model versions of `rapo serve --models FILE`, read from a TOML file.

    default = "v2"

    [models]
    v1 = "runs/first/export"
    v2 = "runs/second/export"

- Folders are relative to the file.
- A change of the file is rolled out.
- A file that cannot be used is logged, and the versions that are served stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rapo.errors import ConfigError, ModelError
from rapo.models.folder import check_model_folder
from services.gateway.reloading import ReloadingFile, read_toml


@dataclass(frozen=True, slots=True)
class ServedModels:
    """Model folders by version. The `default` answers where a call names no version."""

    default: str
    folders: dict[str, Path]


class VersionedServer(Protocol):
    """The part of `services.app.ScorerServer` that a roll-out needs."""

    @property
    def versions(self) -> dict[str, Path]: ...
    @property
    def default(self) -> str: ...
    def add(self, model_dir: Path, version: str) -> None: ...
    def set_default(self, version: str) -> None: ...
    def remove(self, version: str) -> None: ...


def read_models(path: Path) -> ServedModels:
    """Read the file. Raises `ConfigError` where it cannot be read, has another form, or names a
    folder that holds no model."""
    content = read_toml(path, "--models")
    if unknown := sorted(content.keys() - {"default", "models"}):
        raise ConfigError(f"{path}: unknown key '{unknown[0]}'; the keys are default and [models]")
    models, default = content.get("models"), content.get("default")
    if not isinstance(models, dict) or not models or not all(isinstance(folder, str) for folder in models.values()):
        raise ConfigError(f'{path} needs a table [models] with lines such as v1 = "DIR/export"')
    if not isinstance(default, str) or default not in models:
        raise ConfigError(f"{path}: default = {default!r} is not among its models: {', '.join(models)}")
    return ServedModels(default, {version: _folder(path, version, folder) for version, folder in models.items()})


def _folder(path: Path, version: str, name: str) -> Path:
    try:
        folder = (path.parent / name).resolve()
        check_model_folder(folder)
    except ModelError as error:
        raise ConfigError(f"{path}: model {version!r}: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: model {version!r}: its folder cannot be read ({why})") from error
    return folder


def watch_models(path: Path) -> ReloadingFile[ServedModels]:
    """The file's content, read again when it changes. Raises `ConfigError` where it cannot be used
    at the start."""
    return ReloadingFile((path,), lambda: read_models(path))


def roll_out(server: VersionedServer, wanted: ServedModels) -> None:
    """Serve exactly the wanted versions: start the new ones, switch the default, remove the others.
    No call fails meanwhile.

    Raises what starting a version raises. The versions that were started before it are then
    removed, and the default stays.
    """
    served = server.versions
    started: list[str] = []
    # Versions that get other weights come last, because that cannot be undone.
    new = sorted((v for v in wanted.folders if served.get(v) != wanted.folders[v]), key=lambda v: v in served)
    try:
        for version in new:
            server.add(wanted.folders[version], version)
            if version not in served:
                started.append(version)
    except Exception:
        for version in started:
            server.remove(version)
        raise
    if server.default != wanted.default:
        server.set_default(wanted.default)
    for version in served:
        if version not in wanted.folders:
            server.remove(version)
