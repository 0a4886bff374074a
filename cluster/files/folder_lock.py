"""Folder lock: opens a folder for results and keeps a second process out of it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rapo.errors import RunFolderError


@contextmanager
def folder_opened(path: Path) -> Iterator[None]:
    """What makes the folder or its lock file. Raises `RunFolderError` where it is a file or may not
    be written."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise RunFolderError(f"{path} is a file, not a folder; give another --out.") from error
    except PermissionError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror}. Give another --out.") from error


def hold(lock: IO[str], path: Path, work: str) -> None:
    """Lock the folder until `lock` is closed. Raises `RunFolderError` where another process has it;
    `work` says what that one does."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFolderError(f"another {work} is working in {path}; wait for it or give another --out.") from error
