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
    places: list[NDArray[np.int64]] = []
    names: list[pa.Array] = []
    values: dict[str, list[Floats]] = {name: [] for name in (*required, *optional)}
    text: dict[str, list[pa.Array]] = {name: [] for name in words}
    problems: list[str] = []
    for batch in table.rows(wanted):
        bad: dict[int, str] = {}
        if source == image:
            column, bad = image_names(batch.cells[image])
        else:
            column = texts(batch.cells[source])
        for name in values:
            found, wrong = numbers(batch.cells[name], name, comma=table.comma, empty=name in optional)
            values[name].append(found)
            bad = wrong | bad
        for name in words:
            text[name].append(texts(batch.cells[name]))
        places.append(batch.places)
        names.append(column)
        problems += [f"{table.word} {batch.places[row]}: {bad[row]}" for row in sorted(bad)]
    if not places:
        raise DataError(f"{table.path} holds no rows; it needs the columns image and score")
    raise_bad_rows(table.path, problems, fix)
    return Frame(
        table,
        np.concatenate(places),
        pa.chunked_array(names, pa.large_string()),
        {name: np.concatenate(arrays) for name, arrays in values.items()},
        {name: pa.chunked_array(arrays, pa.large_string()) for name, arrays in text.items()},
    )
