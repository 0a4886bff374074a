"""Missing images: why files that a table names are not where it says, as far as that can be seen.

A folder that was unpacked on another system, or a table that was written on one, differs in what
the eye does not see: the case of an ending, the composition of accents, an ending that is left out.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Missing files that are looked into, and files of a folder that are compared by name.
_LOOKED_INTO, _NAMES = 20, 200_000
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def hint(root: Path, missing: Sequence[str]) -> str:
    """A sentence on where the first of the files `missing` below `root` are instead; empty where
    nothing is found."""
    for name in missing[:_LOOKED_INTO]:
        for found, why in _elsewhere(root, name):
            return f"{name!r} is there as {found!r}: {why}"
    return ""


def _elsewhere(root: Path, name: str) -> Iterator[tuple[str, str]]:
    plain = name.replace("\\", "/")
    if plain != name and (root / plain).is_file():
        yield plain, "the table has backslashes; write slashes"
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, name)
        if other != name and (root / other).is_file():
            words = "accents are composed otherwise"
            yield other, f"{words} ({form}); write the table with the names of the files, or rename these"
    for ending in _ENDINGS:
        if (root / f"{name}{ending}").is_file():
            yield f"{name}{ending}", "the table leaves the ending out; add it"
    path = root / name
    if (same := _same_name(path.parent, path.name)) is not None:
        yield str(Path(name).parent / same), "upper and lower case differ; make them equal"
    if "/" in name and (root / path.name).is_file():
        yield path.name, "the table has a folder before the name; give the folder above it by data.images"
    for folder in _folders(root):
        if (folder / path.name).is_file():
            words = "the images lie in a folder of their own; give it by data.images"
            yield str((folder / path.name).relative_to(root)), words


def _same_name(folder: Path, name: str) -> str | None:
    """A file of the folder whose name differs in case only."""
    wanted = name.casefold()
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if entry.name.casefold() == wanted:
                    return entry.name
                if count == _NAMES:
                    return None
    except OSError:
        return None
    return None


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return
