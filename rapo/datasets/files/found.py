"""Found: what lies at a source's path: a label file, or a folder with label files in it.

Layouts are recognised by the columns of these files. Names of files and folders only say which
split a file is of, where a collection tells that in no other way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rapo.datasets.files.open import open_table
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.files.sniff import sniff
from rapo.errors import DataError
from rapo.records import Split

#: Endings of files that hold no labels.
_NO_LABELS = re.compile(
    r"\.(jpe?g?|png|webp|bmp|tiff?|gif|hei[cf]|jxl|jp2|cr2|zip|tar|md|py|pdf|pth?|safetensors|ya?ml|toml|lock|mp4|html|ipynb|npy)$",
    re.IGNORECASE,
)
_DEPTH = 4
#: So many files of a folder are looked into, besides shards of Parquet and Arrow.
MOST_FILES = 500
_SHARDS = (".parquet", ".arrow")
_NUMBERED = re.compile(r"(?P<start>.*-)(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\..+)")

_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "testnew": "test",
    "eval": "test",
}
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True, slots=True)
class LabelFile:
    """One file: its table, or the reason why it is none."""

    path: Path
    table: RawTable | None
    problem: str = ""

    def has(self, *columns: str) -> bool:
        """Whether the table has all of `columns`, in any case."""
        return self.table is not None and {name.lower() for name in self.table.columns} >= set(columns)


class Found:
    """`path` is a file or a folder; `folder` the folder that relative images are looked up in."""

    def __init__(self, path: Path, images: Path | None = None) -> None:
        self.path = path
        self.images = images
        self.folder = path if path.is_dir() else path.parent

    @cached_property
    def files(self) -> tuple[LabelFile, ...]:
        """The label files, in the order of their names; not opened are images and archives."""
        return tuple(map(_look, label_paths(self.path)))

    def with_columns(self, *columns: str) -> list[LabelFile]:
        """The files with all of these columns (in lower case)."""
        return [file for file in self.files if file.has(*columns)]

    def image_folder(self, names: Collection[str]) -> Path:
        """The folder of the images: as configured, or else the first of `names` in the folder, in
        one below it or in one of the two above it, or else the folder itself."""
        if self.images is not None:
            return self.images
        folders = (self.folder, *self.folder.parents[:2])
        if self.path.is_dir():
            folders = (self.path, *(item for item in sorted(self.path.iterdir()) if item.is_dir()))
        return next((folder / name for name in names for folder in folders if (folder / name).is_dir()), self.folder)


def split_of_name(path: Path, *, above: int = 0) -> Split | None:
    """The split that a file's name says ("PARA-GiaaTrain.csv"), or one of the `above` folders
    above it that is called like a split."""
    for piece in _PIECES.findall(path.stem):
        if (split := _WORDS.get(piece.lower())) is not None:
            return split
    return next((split for parent in list(path.parents)[:above] if (split := split_word(parent.name))), None)


def split_word(word: str) -> Split | None:
    """The split that a word of a column means."""
    return _WORDS.get(word.lower())


def lacking_shards(paths: Iterable[Path]) -> list[str]:
    """The names of shards that are not among the paths although the names of others count them."""
    there: set[str] = set()
    counted: dict[str, None] = {}
    for path in paths:
        there.add(path.name)
        if match := _NUMBERED.fullmatch(path.name):
            every = range(int(match["count"]))
            counted |= dict.fromkeys(f"{match['start']}{i:05d}-of-{match['count']}{match['end']}" for i in every)
    return [name for name in counted if name not in there]


def label_paths(path: Path) -> Iterator[Path]:
    """The files at a path that may hold labels: the file itself, or those in the folder."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _candidates(path)


def _candidates(folder: Path) -> Iterator[Path]:
    count = 0
    base = len(folder.parts)
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(parent).parts) - base >= _DEPTH:
            folders.clear()
        for name in sorted(names):
            if not name.startswith(".") and _NO_LABELS.search(name) is None:
                yield Path(parent, name)
                count += not name.endswith(_SHARDS)
                if count == MOST_FILES:
                    return


def _look(path: Path) -> LabelFile:
    try:
        if sniff(path) == "matlab":
            return LabelFile(path, None, "a MATLAB file")
        return LabelFile(path, open_table(path))
    except DataError as error:
        return LabelFile(path, None, str(error))
