"""Evaluated models: what `rapo evaluate` takes as a MODEL, told apart by what lies there.

[NAME=]DIR                a run's folder (its cold start and its RAPO model), or a model's
[NAME=]FILE[@LOW..HIGH]   predictions of another system; @native: on the scale of each set
[NAME=]HOST:PORT          a running scorer
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cluster.files.run_folder import RunFolder
from rapo.errors import ConfigError
from rapo.evaluation.given import GivenScale
from rapo.models.folder import check_model_folder

_SCORER = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")
_RANGE = re.compile(r"([-+\d.eE]+)\.\.([-+\d.eE]+)")
_NATIVE = "native"


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A model folder that vLLM serves. `run` is the run that made it, whose settings then hold."""

    name: str
    folder: Path
    run: Path | None = None


@dataclass(frozen=True, slots=True)
class GivenModel:
    """Predictions in a file; `scale` is None where it was not declared."""

    name: str
    file: Path
    scale: GivenScale | None


@dataclass(frozen=True, slots=True)
class ScorerModel:
    """A scorer that runs at `address`, HOST:PORT."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class _Trained:
    """What the RAPO stage notes of its model."""

    model: str


EvaluatedModel: TypeAlias = FolderModel | GivenModel | ScorerModel


def evaluated_models(arguments: list[str]) -> list[EvaluatedModel]:
    """The models of the command's arguments, in order. Raises `ConfigError` for one that is none,
    and for two of one name; and `ModelError` for a folder that holds no model."""
    models = [model for argument in arguments for model in _of(argument)]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models are called {name!r}; name them by NAME=MODEL")
    return models


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return os.path.isfile(path / "config.toml") and not os.path.isfile(path / "config.json")


def _of(argument: str) -> Iterator[EvaluatedModel]:
    name, where = _named(argument)
    path = Path(where).expanduser()
    if is_run(path):
        yield from _of_run(name or path.resolve().name, path.resolve())
    elif os.path.isdir(path):
        check_model_folder(path)
        yield FolderModel(name or path.resolve().name, path.resolve())
    elif os.path.isfile(path):
        yield GivenModel(name or path.stem, path, None)
    elif _SCORER.fullmatch(where):
        yield ScorerModel(name or where, where)
    else:
        file, _, words = where.rpartition("@")
        path = Path(file).expanduser()
        if not file or not os.path.isfile(path):
            raise ConfigError(
                f"{where} is no model: give a run's folder, a model's folder, a file of predictions (FILE@LOW..HIGH or "
                "FILE@native with its scale), or the HOST:PORT of a running scorer"
            )
        yield GivenModel(name or path.stem, path, _scale(words, file))


def _named(argument: str) -> tuple[str, str]:
    """The name before the first =, unless the argument as a whole lies on disk."""
    name, equals, where = argument.partition("=")
    if not equals or os.path.exists(argument) or "/" in name:
        return "", argument
    return name.strip(), where


def _of_run(name: str, path: Path) -> Iterator[FolderModel]:
    folder = RunFolder(path)
    found = []
    if folder.finished("coldstart") is not None:
        found.append(FolderModel(f"{name}, cold start", path / "coldstart" / "model", path))
    if folder.finished("export") is not None:
        found.append(FolderModel(name, path / "export", path))
    elif (trained := folder.result("rapo", _Trained)) is not None:
        found.append(FolderModel(name, Path(trained.model), path))
    if not found:
        raise ConfigError(f"the run {path} has no model yet: neither its cold start nor its RAPO stage is finished")
    for model in found:
        check_model_folder(model.folder)
        yield model


def _scale(words: str, file: str) -> GivenScale:
    if words == _NATIVE:
        return GivenScale(None)
    match = _RANGE.fullmatch(words)
    try:
        low, high = (float(end) for end in match.groups()) if match is not None else (0.0, 0.0)
    except ValueError:
        low = high = 0.0
    if low >= high:
        raise ConfigError(f"{file}@{words}: give the scale as @LOW..HIGH, such as @1..10, or @native")
    return GivenScale((low, high))
