"""Labels: the label rows of one source as columns, so that millions of rows stay small.

- Strings lie in Arrow arrays and numbers in NumPy arrays; row i is entry i of each.
- `files` are relative to `root`, or absolute.
- An unknown spread is NaN, an unknown split -1.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.files.growing import GrowingStrings
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.rows import LabelRow
from rapo.records import Split

SPLITS: tuple[Split, ...] = get_args(Split)
NO_SPLIT = -1

#: Rows of a column that are worked on at a time, and of those that become Python objects.
CHUNK = 1 << 16
_FEW = 1 << 12


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """Images that lie in a column of the table itself, as {bytes, path}. The file of a row is then
    `NUMBER/THOUSANDS/PLACE.jpg`, where the table of that number has the image in that place."""

    table: RawTable
    column: str


def embedded_file(number: int, place: int, name: str) -> str:
    """The file of an embedded image; `name` gives the ending."""
    return f"{number}/{place // 1000:06d}/{place:09d}{Path(name).suffix}"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """`sets` names each row's data set where the source itself says it. `parts` are the files that
    the rows come from: what a place is called ("line", "b.csv line"), and its first row."""

    root: Path
    names: pa.ChunkedArray
    files: pa.ChunkedArray
    scores: Floats
    places: NDArray[np.int64]
    stds: Floats | None = None
    votes: NDArray[np.int32] | None = None
    splits: NDArray[np.int8] | None = None
    sets: pa.ChunkedArray | None = None
    attributes: Floats | None = None
    parts: tuple[tuple[str, int], ...] = (("line", 0),)
    embedded: tuple[EmbeddedImages, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def name(self, row: int) -> str:
        """The image's name within its data set."""
        return self.names[row].as_py()

    def path(self, row: int) -> Path:
        """The image's file."""
        return self.root / self.files[row].as_py()

    def place(self, row: int) -> str:
        """The row's place in its file, such as "line 7"."""
        word = next(word for word, first in reversed(self.parts) if first <= row)
        return f"{word} {self.places[row]}"

    def set_name(self, row: int) -> str | None:
        """The row's data set, where the source says it."""
        return None if self.sets is None else self.sets[row].as_py()

    def known_stds(self) -> Floats:
        """The spreads that are known."""
        return np.empty(0) if self.stds is None else self.stds[~np.isnan(self.stds)]

    def split_at(self, row: int) -> Split | None:
        """The split that the source gives the row."""
        code = NO_SPLIT if self.splits is None else int(self.splits[row])
        return None if code == NO_SPLIT else SPLITS[code]

    def with_splits(self, split: Split | None) -> Labels:
        """The same rows, all in one split (None: in none)."""
        code = NO_SPLIT if split is None else SPLITS.index(split)
        return replace(self, splits=np.full(len(self), code, np.int8))

    def with_images(self, names: Sequence[str], images: EmbeddedImages) -> Labels:
        """The same rows under other names, with their images in the table itself."""
        files = [embedded_file(0, place, name) for place, name in zip(self.places, names, strict=True)]
        return replace(self, names=string_column(names), files=string_column(files), embedded=(images,))

    def take(self, rows: NDArray[np.int64]) -> Labels:
        """Some of the rows, in the order of `rows`. Places of a source of several files become
        those of the whole."""
        indices = pa.array(rows)
        names = self.names.take(indices)
        return replace(
            self,
            names=names,
            files=names if self.files is self.names else self.files.take(indices),
            scores=self.scores[rows],
            places=self.places[rows],
            stds=_taken(self.stds, rows),
            votes=_taken(self.votes, rows),
            splits=_taken(self.splits, rows),
            sets=None if self.sets is None else self.sets.take(indices),
            attributes=_taken(self.attributes, rows),
            parts=self.parts if len(self.parts) == 1 else (("row", 0),),
        )

    def duplicates(self) -> Iterator[tuple[int, int]]:
        """Pairs of rows with the same name (and data set): the first one, and a later one."""
        hashes = self._hashes()
        hashes.sort()
        again = hashes[1:][hashes[1:] == hashes[:-1]]
        if not len(again):
            return
        first: dict[tuple[str | None, str], int] = {}
        for row in np.flatnonzero(np.isin(self._hashes(), again)).tolist():
            earlier = first.setdefault((self.set_name(row), self.name(row)), row)
            if earlier != row:
                yield earlier, row

    def _hashes(self) -> NDArray[np.int64]:
        return np.fromiter(map(hash, self.keys()), np.int64, len(self))

    def keys(self) -> Iterator[object]:
        """What tells the rows apart, made in pieces so that memory stays flat."""
        if self.sets is None:
            return strings(self.names)
        return zip(strings(self.sets), strings(self.names), strict=True)


def _taken(column: NDArray | None, rows: NDArray[np.int64]) -> NDArray | None:
    return None if column is None else column[rows]


def strings(column: pa.ChunkedArray) -> Iterator[str]:
    """The column's strings; few at a time exist."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), _FEW):
            yield from chunk.slice(start, _FEW).to_pylist()


def string_column(values: Sequence[str]) -> pa.ChunkedArray:
    """Strings as a column."""
    return pa.chunked_array([pa.array(values, pa.large_string())])


class LabelBuilder:
    """Collects `LabelRow`s into `Labels`; for readers that go row by row. All rows have votes, or
    none; a row's `place` must be a word and a number."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._prefix = f"{root}/"
        self._names, self._files = GrowingStrings(), GrowingStrings()
        self._last: list[tuple[str, str]] = []
        self._scores = array("d")
        self._places = array("q")
        self._stds = array("d")
        self._votes = array("i")
        self._splits = array("b")
        self._attributes: list[tuple[float, ...] | None] = []
        self._word = "line"

    def __len__(self) -> int:
        return len(self._scores)

    def append(self, row: LabelRow) -> None:
        self._last.append((row.name, str(row.path).removeprefix(self._prefix)))
        if len(self._last) == _FEW:
            self._store_last()
        self._scores.append(row.score)
        self._word, _, number = row.place.rpartition(" ")
        self._places.append(int(number))
        self._stds.append(math.nan if row.std is None else row.std)
        self._votes.extend(row.votes or ())
        self._splits.append(NO_SPLIT if row.split is None else SPLITS.index(row.split))
        self._attributes.append(row.attributes)

    def build(self) -> Labels:
        attributes = None
        if width := max((len(item) for item in self._attributes if item is not None), default=0):
            blank = (math.nan,) * width
            attributes = np.array([blank if item is None else item for item in self._attributes], np.float64)
        self._store_last()
        stds, splits = np.asarray(self._stds), np.asarray(self._splits)
        return Labels(
            root=self._root,
            names=self._names.column(),
            files=self._files.column(),
            scores=np.asarray(self._scores),
            places=np.asarray(self._places),
            stds=None if np.isnan(stds).all() else stds,
            votes=np.asarray(self._votes).reshape(len(self), -1) if self._votes else None,
            splits=None if (splits == NO_SPLIT).all() else splits,
            attributes=attributes,
            parts=((self._word, 0),),
        )

    def _store_last(self) -> None:
        for number, column in enumerate((self._names, self._files)):
            column.extend(pa.array([row[number] for row in self._last], pa.large_string()))
        self._last.clear()


def joined(sources: Sequence[tuple[str, Labels]]) -> Labels:
    """The rows of several files of one collection, which lie under one root. Each comes with its
    file's name, which its places then begin with."""
    if len(sources) == 1:
        return sources[0][1]
    parts, first = [], 0
    for name, labels in sources:
        parts.append((f"{name} {labels.parts[0][0]}", first))
        first += len(labels)
    every = [labels for _, labels in sources]
    votes = [labels.votes for labels in every if labels.votes is not None]
    sets = [labels.sets for labels in every if labels.sets is not None]
    files = [labels.files for labels in every]
    embedded = tuple(images for labels in every for images in labels.embedded)
    if embedded:
        files = [pc.replace_substring_regex(column, "^0/", f"{number}/") for number, column in enumerate(files)]
    return Labels(
        root=every[0].root,
        names=_chained([labels.names for labels in every]),
        files=_chained(files),
        scores=np.concatenate([labels.scores for labels in every]),
        places=np.concatenate([labels.places for labels in every]),
        stds=_stacked([labels.stds for labels in every], every, math.nan),
        splits=_stacked([labels.splits for labels in every], every, NO_SPLIT),
        votes=np.concatenate(votes) if len(votes) == len(every) else None,
        sets=_chained(sets) if len(sets) == len(every) else None,
        embedded=embedded,
        parts=tuple(parts),
    )


def _chained(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.large_string())


def _stacked(columns: list[NDArray | None], every: Sequence[Labels], blank: float) -> NDArray | None:
    """The column over all files, `blank` for those without it; None if no file has it."""
    present = [column for column in columns if column is not None]
    if not present:
        return None
    kind = present[0].dtype
    filled = [
        np.full(len(labels), blank, kind) if column is None else column
        for column, labels in zip(columns, every, strict=True)
    ]
    return np.concatenate(filled)
