"""RawTable: a label file as columns of cells, before their meaning is known.

- Rows come in batches, so that a file of any length needs little memory.
- A cell is text in text files, and what the file says in JSON and Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rapo.errors import DataError
from rapo.util.brief import brief

#: Cells of one column: an Arrow array where they have one type, a list where they may not.
Cells: TypeAlias = pa.Array | list[object]

#: Rows of a batch.
BATCH = 1 << 12


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows: their places in the file, and the cells of the columns that were asked for."""

    places: NDArray[np.int64]
    cells: dict[str, Cells]


@dataclass(frozen=True, slots=True)
class RawTable:
    """`columns` are the names of the header, stripped, in order; a table `without_header` has
    "1", "2", ... `word` names a place ("line", "item", "row"). `rows(columns)` reads those columns;
    it raises `DataError` for what cannot be read. `comma` allows a decimal comma. `images` says
    which columns hold embedded images, as the structs {bytes, path} of Hugging Face. `notes` are
    sentences on what is passed over."""

    path: Path
    kind: str
    columns: tuple[str, ...]
    word: str
    rows: Callable[[Sequence[str]], Iterator[Batch]]
    comma: bool = False
    without_header: bool = False
    images: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def check_once(self, names: Iterable[str]) -> None:
        """Raise `DataError` where a column of these names is there twice."""
        for name in names:
            at = [str(place) for place, column in enumerate(self.columns, start=1) if column == name]
            if len(at) > 1:
                raise DataError(
                    f"{self.path} has the column {brief(name)} twice (columns {' and '.join(at)}); keep one of them"
                )

    def head(self, count: int = 50) -> list[dict[str, object]]:
        """The first rows, as Python values."""
        wanted = [name for name in dict.fromkeys(self.columns) if name not in self.images]
        for batch in self.rows(wanted):
            columns = {name: _values(cells, count) for name, cells in batch.cells.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return []


def _values(cells: Cells, count: int) -> list[object]:
    return cells[:count] if isinstance(cells, list) else cells.slice(0, count).to_pylist()
