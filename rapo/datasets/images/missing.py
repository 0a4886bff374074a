"""Missing images: why files that a table names are not where it says, as far as that can be seen.

A folder that was unpacked on another system, or a table that was written on one, differs in what
the eye does not see: the case of an ending, the composition of accents, an ending that is left out.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

#: Missing files that are looked into, and files of a folder that are compared by name.
_LOOKED_INTO, _NAMES = 20, 200_000
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
#: What may stand around a name: quotation marks of all kinds, and spaces that no key writes.
_MARKS = "'\"`\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e \u00a0\u3000"


def hint(root: Path, missing: Sequence[str]) -> str:
    """A sentence on where the first of the files `missing` below `root` are instead; empty where
    nothing is found."""
    folders = _folders(root) if missing else []
    for name in missing[:_LOOKED_INTO]:
        for found, why in _elsewhere(root, folders, name):
            return f"{name!r} is there as {found!r}: {why}"
    return ""


def _elsewhere(root: Path, folders: Sequence[Path], name: str) -> Iterator[tuple[str, str]]:
    if os.path.isdir(root / name):
        yield name, "a folder, not an image; name the files in it"
    for other, why in _written_otherwise(name):
        if other != name and os.path.isfile(root / other):
            yield other, why
    path = root / name
    if (same := _same_name(path.parent, path.name)) is not None:
        yield str(Path(name).parent / same), "upper and lower case differ; make them equal"
    yield from _in_other_folders(root, folders, name)


def _written_otherwise(name: str) -> Iterator[tuple[str, str]]:
    """Names that may be meant, and what is different."""
    yield name.replace("\\", "/"), "the table has backslashes; write slashes"
    for form in ("NFC", "NFD"):
        words = f"accents are composed otherwise ({form}); write the table with the names of the files, or rename these"
        yield unicodedata.normalize(form, name), words
    for ending in _ENDINGS:
        yield f"{name}{ending}", "the table leaves the ending out; add it"
    yield unquote(name), "the table has names of URLs; write %20 as a space, and the like"
    seen = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")
    yield seen.strip(_MARKS), "the table has marks, spaces or signs without width around the name; take them out"
    yield os.path.expanduser(name), "~ is not expanded in a table; write the folder"


def _in_other_folders(root: Path, folders: Sequence[Path], name: str) -> Iterator[tuple[str, str]]:
    """The file's name with fewer of its folders, below the root and below its folders."""
    parts = Path(name).parts
    for start in range(len(parts)):
        before, rest = str(Path(*parts[:start])), Path(*parts[start:])
        for folder in (root, *folders):
            if not os.path.isfile(folder / rest):
                continue
            found = str((folder / rest).relative_to(root))
            if folder != root:
                own = "the images lie in a folder of their own; give it by data.images"
                yield found, own if not start else f"{own}, and take {before!r} out of the table's names"
            elif root.parts[-start:] == parts[:start]:
                yield found, "the table has a folder before the name; give the folder above it by data.images"
            elif start:
                yield found, f"the table has folders before the name; take {before!r} out of it"


def _same_name(folder: Path, name: str) -> str | None:
    """A file of the folder whose name differs in case only."""
    wanted = name.casefold()
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if entry.name.casefold() == wanted and entry.name != name and entry.is_file():
                    return entry.name
                if count == _NAMES:
                    return None
    except OSError:
        return None
    return None


def _folders(root: Path) -> list[Path]:
    """The folders in the root that are not hidden, as far as it is looked through."""
    try:
        with os.scandir(root) as entries:
            some = [entry for entry in islice(entries, _NAMES) if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    return [root / entry.name for entry in sorted(some, key=lambda entry: entry.name)]
