"""Atomic files: they appear whole or not at all.

- A crash leaves either the old file or the new one.
- A full disk is named with the file and the space that is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.files.json_values import to_json_value
from rapo.errors import ResourceError, RunFolderError
from rapo.util.atomic_dir import sync

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


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as indented JSON, atomically. NumPy values and paths are converted, NaN and
    infinities are null.

    Raises `TypeError` for a value that JSON cannot hold, naming where it is, and `ResourceError` on
    a full disk.
    """
    text = json.dumps(to_json_value(value, "value"), indent=2, ensure_ascii=False, allow_nan=False)
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


@contextlib.contextmanager
def disk_full_named(path: Path) -> Iterator[None]:
    """Raise `ResourceError` in place of the system's error where the disk is full."""
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
