"""Frame: columns of a table, checked and converted: image names, numbers and words.

What is wrong is collected over the whole table and raised with the places of the first rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.files.cells import image_names, numbers, texts
from rapo.datasets.files.growing import GrowingNumbers, GrowingStrings
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.rows import raise_bad_rows
from rapo.errors import DataError

FIX = "Each row needs an image and a number as its score."


@dataclass(frozen=True, slots=True)
class Frame:
    """Columns by name, row by row of `table`; `places` are the rows' places in the file."""

    table: RawTable
    places: NDArray[np.int64]
    names: pa.ChunkedArray
    numbers: dict[str, Floats]
    words: dict[str, pa.ChunkedArray]

    def __len__(self) -> int:
        return len(self.places)


def read_frame(
    table: RawTable,
    image: str,
    required: Sequence[str],
    *,
    optional: Sequence[str] = (),
    words: Sequence[str] = (),
    fix: str = FIX,
) -> Frame:
    """Read columns of a table: image names, numbers (`optional` ones may be empty, and are NaN
    then), and words. Raises `DataError` for bad cells, and for a table without rows."""
    source = f"{image}.path" if image in table.images else image
    wanted = list(dict.fromkeys((source, *required, *optional, *words)))
    table.check_once(wanted)
    places, names = GrowingNumbers(np.int64), GrowingStrings()
    values = {name: GrowingNumbers(np.float64) for name in (*required, *optional)}
    text = {name: GrowingStrings() for name in words}
    problems: list[str] = []
    rows = 0
    for batch in table.rows(wanted):
        bad: dict[int, str] = {}
        if source == image:
            column, bad = image_names(batch.cells[image])
        else:
            column = texts(batch.cells[source])
        for name in values:
            found, wrong = numbers(batch.cells[name], name, comma=table.comma, empty=name in optional)
            values[name].extend(found)
            bad = wrong | bad
        for name in words:
            text[name].extend(texts(batch.cells[name]))
        places.extend(batch.places)
        names.extend(column)
        rows += len(batch.places)
        problems += [f"{table.word} {batch.places[row]}: {bad[row]}" for row in sorted(bad)]
    if not rows:
        raise DataError(f"{table.path} holds no rows; it needs the columns image and score")
    raise_bad_rows(table.path, problems, fix)
    # Arrow keeps what the batches took for a while, beside what follows.
    pa.default_memory_pool().release_unused()
    return Frame(
        table,
        places.column(),
        names.column(),
        {name: column.column() for name, column in values.items()},
        {name: column.column() for name, column in text.items()},
    )
