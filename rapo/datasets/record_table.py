"""RecordTable: image records as a sequence that holds columns and makes a record when it is asked
for one.

- A million rows take tens of megabytes, where as many records would take a gigabyte.
- A part is what one source contributes; a table is some rows of its parts, in order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.labels import CHUNK, SPLITS, Labels, strings
from rapo.datasets.scales import Scale
from rapo.records import ImageRecord, Split


@dataclass(frozen=True, slots=True, eq=False)
class RecordPart:
    """The rows of one source. `name` is the data set of rows that name none themselves; `splits`
    index `SPLITS`. Parts with the same `ids` number their images alike."""

    name: str
    labels: Labels
    scale: Scale
    splits: NDArray[np.int8]
    ids: str | None = None

    def uids(self, rows: pa.Array | None = None) -> Iterator[str]:
        """The uid of each row, or of some rows."""
        names, sets = self.labels.names, self.labels.sets
        if rows is not None:
            names, sets = names.take(rows), None if sets is None else sets.take(rows)
        if sets is None:
            return (f"{self.name}/{name}" for name in strings(names))
        return (f"{dataset}/{name}" for dataset, name in zip(strings(sets), strings(names), strict=True))

    def dataset(self, row: int) -> str:
        """The data set of a row."""
        return self.labels.set_name(row) or self.name

    def path(self, row: int) -> Path:
        """The image file of a row."""
        return self.labels.path(row)

    def record(self, row: int) -> ImageRecord:
        """The record of a row."""
        labels, scale, dataset = self.labels, self.scale, self.dataset(row)
        score = float(labels.scores[row])
        std = math.nan if labels.stds is None else float(labels.stds[row])
        attributes = None if labels.attributes is None else labels.attributes[row]
        return ImageRecord(
            uid=f"{dataset}/{labels.name(row)}",
            dataset=dataset,
            split=SPLITS[self.splits[row]],
            score=(score - scale.offset) / scale.width,
            native_score=score,
            native_range=scale.native,
            path=labels.path(row),
            std=None if math.isnan(std) else std / scale.std_width,
            votes=None if labels.votes is None else tuple(map(int, labels.votes[row])),
            attributes=None if attributes is None or math.isnan(attributes[0]) else tuple(map(float, attributes)),
        )


@dataclass(frozen=True, eq=False)
class RecordTable(Sequence[ImageRecord]):
    """Rows of parts: record i is row `row[i]` of part `part[i]`."""

    parts: tuple[RecordPart, ...]
    part: NDArray[np.int32]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[RecordPart]) -> RecordTable:
        """All rows of all parts."""
        sizes = [len(part.labels) for part in parts]
        return cls(
            tuple(parts),
            np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
            np.concatenate([np.arange(size) for size in sizes]) if sizes else np.empty(0, np.int64),
        )

    def __len__(self) -> int:
        return len(self.row)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> RecordTable: ...

    def __getitem__(self, index: int | slice) -> ImageRecord | RecordTable:
        if isinstance(index, slice):
            return RecordTable(self.parts, self.part[index], self.row[index])
        return self.parts[self.part[index]].record(int(self.row[index]))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> RecordTable:
        """Some of the records, by their indices or by a mask."""
        return RecordTable(self.parts, self.part[rows], self.row[rows])

    def path(self, index: int) -> Path:
        """The image file of a record."""
        return self.parts[self.part[index]].path(int(self.row[index]))

    def files(self) -> Iterator[str]:
        """The image file of each record as a string: a `Path` each would be slow for many."""
        for part, rows in self._runs():
            root = part.labels.root
            yield from (os.path.join(root, file) for file in strings(part.labels.files.take(rows)))

    def uids(self) -> Iterator[str]:
        """The uid of each record, without making the records."""
        for part, rows in self._runs():
            yield from part.uids(rows)

    def _runs(self) -> Iterator[tuple[RecordPart, pa.Array]]:
        """The records in order as rows of one part after the other, few at a time."""
        edges = [0, *(np.flatnonzero(np.diff(self.part)) + 1).tolist(), len(self)]
        for first, last in zip(edges, edges[1:], strict=False):
            for start in range(first, last, CHUNK):
                yield self.parts[self.part[start]], pa.array(self.row[start : min(start + CHUNK, last)])

    @cached_property
    def splits(self) -> NDArray[np.int8]:
        """Each record's split, as an index of `SPLITS`."""
        return self._column([part.splits for part in self.parts], np.int8)

    @cached_property
    def scores(self) -> Floats:
        """Each record's normalised score."""
        columns = [(part.labels.scores - part.scale.offset) / part.scale.width for part in self.parts]
        return self._column(columns, np.float64)

    @cached_property
    def with_std(self) -> NDArray[np.bool_]:
        """Whether each record has a spread."""
        columns = [
            np.zeros(len(part.labels), bool) if part.labels.stds is None else ~np.isnan(part.labels.stds)
            for part in self.parts
        ]
        return self._column(columns, np.bool_)

    def of_split(self, split: Split) -> RecordTable:
        """The records of one split."""
        return self.take(self.splits == SPLITS.index(split))

    @cached_property
    def datasets(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """The names of the data sets, and each record's as an index of them."""
        names: dict[str, int] = {}
        columns = []
        for part in self.parts:
            if part.labels.sets is None:
                columns.append(np.full(len(part.labels), names.setdefault(part.name, len(names)), np.int32))
                continue
            encoded = part.labels.sets.combine_chunks().dictionary_encode()
            codes = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int32)
            columns.append(codes[encoded.indices.to_numpy(zero_copy_only=False)])
        return tuple(names), self._column(columns, np.int32)

    def _column(self, columns: list[NDArray], kind: type) -> NDArray:
        """A column over the parts, for the rows of this table."""
        result: NDArray = np.empty(len(self), kind)
        for number, column in enumerate(columns):
            mine = self.part == number
            result[mine] = column[self.row[mine]]
        return result
