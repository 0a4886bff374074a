"""Atomic folders: they appear whole or not at all, also after a crash or a power cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a folder to. It replaces `target` when the block ends without
    an error.

    Leftovers of an earlier, unfinished attempt are removed first. Everything is synced before the
    rename.
    """
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    yield aside
    for folder, _, names in os.walk(aside):
        for name in (*names, "."):
            sync(Path(folder) / name)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Write a file or folder through to the disk; returns when it is there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
