"""Weight files: the tensors that a model folder's safetensors files hold, by their headers alone.

- A header says the name, shape and dtype of each tensor. Reading those of a 7B model takes
  milliseconds, whatever the size of the files.
- The files are those that transformers and vLLM would load: the ones that the index names, or
  `model.safetensors`. A folder in which the two would load different files is refused.
- A shard that is not there, a Git LFS pointer and a cut file are found here, before anything loads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rapo.errors import ModelError
from rapo.util.brief import brief_error

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's shape, its dtype in safetensors' spelling ("BF16"), and the file that holds it."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model folder, in the order of their names.

    Raises `ModelError` where there are none, where the index names a file that is not there, and
    where it is not clear which files are the model.
    """
    path = Path(folder)
    if (path / INDEX).is_file():
        names = sorted(set(_index(path).values()))
        if absent := [name for name in names if not (path / name).is_file()]:
            raise ModelError(
                f"{folder} lacks {len(absent)} of the {len(names)} files that {INDEX} names ({_some(absent)}): "
                "the download or copy is not complete."
            )
        if (path / SINGLE).is_file() and SINGLE not in names:
            raise ModelError(
                f"{folder} holds {SINGLE} beside an {INDEX} that does not name it: transformers and vLLM would load "
                "different weights. Remove the one that is out of date."
            )
        return [path / name for name in names]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    others = sorted(file.name for file in path.glob("*.safetensors"))
    if not others:
        raise ModelError(f"{folder} holds no *.safetensors file: the weights are missing.")
    raise ModelError(f"{folder} holds {_some(others)}, but neither {SINGLE} nor the {INDEX} of its shards.")


def stored_tensors(folder: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a model folder by name. Only headers are read.

    Raises `ModelError` as `weight_files` does, and where a file is a Git LFS pointer, cut or
    damaged, or lacks a tensor that the index says it holds.
    """
    path, found = Path(folder), dict[str, StoredTensor]()
    for file in weight_files(folder):
        for name, tensor in _headers(file):
            if name in found:
                raise ModelError(f"{folder}: {found[name].file.name} and {file.name} both hold {name}.")
            found[name] = tensor
    if (path / INDEX).is_file():
        absent = [name for name, file in _index(path).items() if name not in found or found[name].file.name != file]
        if absent:
            raise ModelError(
                f"{folder}: {len(absent)} tensors are not in the file that {INDEX} names ({_some(absent)})."
            )
    return found


def _headers(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
        if start == _POINTER:
            raise ModelError(
                f"{file} is a Git LFS pointer, not the weights. Run 'git lfs pull' in the folder that it was cloned to."
            )
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                part = tensors.get_slice(name)
                yield name, StoredTensor(tuple(part.get_shape()), part.get_dtype(), file)
    except SafetensorError as error:
        raise ModelError(
            f"{file} ({file.stat().st_size} bytes) is cut or damaged: {brief_error(error)}. Download or copy it again."
        ) from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error


def _index(folder: Path) -> Mapping[str, str]:
    file = folder / INDEX
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names: dict[str, str] = content["weight_map"]
        if not names or any(Path(name).name != name for name in names.values()):
            raise ValueError("weight_map names no files of this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is no index of shards ({error!r}). Copy it again.") from error
    return names


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
