"""File manifests: sizes and checksums of a folder's files, so that damage is found before the
folder is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash

#: Size in bytes and xxh3-128 of a file, by its path relative to the folder.
Entries = dict[str, tuple[int, str]]

_PIECE = 16 * 2**20


def entries_of(folder: Path, paths: Iterable[Path]) -> Entries:
    """The entries of files inside `folder`."""
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, _hash(path)) for path in paths}


def damage(folder: Path, entries: Mapping[str, tuple[int, str]]) -> str | None:
    """What is wrong with the folder's files; None if nothing is."""
    for name, (size, checksum) in entries.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if _hash(path) != checksum:
            return f"{name} does not match its checksum"
    return None


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
