"""ScoreInputs: the images of `rapo score`, from files, folders, patterns and a list on stdin."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rapo.errors import DataError

#: Suffixes of images inside a folder. Formats that the service refuses are among them: a row with
#: an error is better than a file that silently has none. A file that is named itself is sent
#: whatever its suffix.
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

#: Stands for the list on stdin.
STDIN = "-"


def find_images(paths: Sequence[str], listed: Iterable[str] = ()) -> list[Path]:
    """The images that `paths` name, each once, in order; folders are searched to the bottom, sorted
    by name.

    `-` among the paths takes the names in `listed`, one a line. Raises `DataError` for a name in
    `paths` that does not exist and where nothing is found at all. A listed file that does not exist
    is kept: it gets a row with an error.
    """
    found: dict[Path, None] = {}
    for name in paths:
        for path in _listed(listed) if name == STDIN else _expand(name):
            found.update(dict.fromkeys(_walk(path) if path.is_dir() else [path]))
    if not found:
        raise DataError(
            f"no images in {', '.join(paths) or 'an empty list'}. Give files, folders or patterns, or - for a list on "
            f"stdin; inside folders these suffixes count: {', '.join(sorted(SUFFIXES))}."
        )
    return list(found)


def _listed(lines: Iterable[str]) -> list[Path]:
    return [Path(name) for line in lines if (name := line.rstrip("\r\n"))]


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.exists():
        return [path]
    if glob.has_magic(name):
        return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    raise DataError(f"{name} does not exist. Give files, folders or patterns such as 'photos/*.jpg'.")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(parent, name)
