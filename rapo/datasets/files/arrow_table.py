"""Arrow tables: Parquet and Arrow files, and data sets of the `datasets` library, in batches.

An image column may hold the structs {bytes, path} that Hugging Face writes. Its paths can be read
alone, as the column "NAME.path".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from rapo.datasets.files.raw_table import Batch, RawTable
from rapo.errors import DataError
from rapo.util.brief import brief_error

#: Rows of a batch, and of one whose rows hold images.
_BATCH, _IMAGES = 1 << 14, 64
#: Bytes of a Parquet column that are in memory at a time; without it all of a row group are.
_BUFFER = 1 << 18
_PATH = ".path"


def open_parquet_table(path: Path) -> RawTable:
    """A Parquet file as a table. Raises `DataError` where it is damaged."""

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with parquet.ParquetFile(path, buffer_size=_BUFFER) as file:
            yield from file.iter_batches(_size(columns, file.schema_arrow), columns=list(columns))

    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {brief_error(error)}") from error
    return arrow_table(path, "parquet", schema, batches)


def open_arrow_table(path: Path) -> RawTable:
    """An Arrow file or stream as a table. Raises `DataError` where it is damaged."""
    try:
        table = _read_arrow(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Arrow file: {brief_error(error)}") from error

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        whole = [name.removesuffix(_PATH) if name not in table.column_names else name for name in columns]
        yield from table.select(whole).to_batches(max_chunksize=_size(columns, table.schema))

    return arrow_table(path, "arrow", table.schema, batches)


def arrow_table(
    path: Path, kind: str, schema: pa.Schema, batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
) -> RawTable:
    """Batches of a schema as a table."""
    own = {name.strip(): name for name in schema.names}
    images = tuple(name for name, column in own.items() if is_image_struct(schema.field(column).type))
    own |= {f"{name}{_PATH}": f"{own[name]}{_PATH}" for name in images}

    def rows(wanted: Sequence[str]) -> Iterator[Batch]:
        first = 1
        try:
            for batch in batches([own[name] for name in wanted]):
                cells = {name: _column(batch, own[name]) for name in wanted}
                yield Batch(np.arange(first, first + len(batch), dtype=np.int64), cells)
                first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read beyond row {first - 1}: {brief_error(error)}") from error

    return RawTable(path, kind, tuple(name.strip() for name in schema.names), "row", rows, images=images)


def is_image_struct(kind: pa.DataType) -> bool:
    """Whether a column holds Hugging Face's images."""
    return pa.types.is_struct(kind) and {kind.field(i).name for i in range(kind.num_fields)} == {"bytes", "path"}


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name not in batch.schema.names:  # the paths of an image column
        column = batch.column(name.removesuffix(_PATH)).field("path")
    else:
        column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column.validate(full=not is_image_struct(column.type))  # a file's strings may be no UTF-8
    return column


def _size(columns: Sequence[str], schema: pa.Schema) -> int:
    holds_images = any(name in schema.names and is_image_struct(schema.field(name).type) for name in columns)
    return _IMAGES if holds_images else _BATCH


def _read_arrow(path: Path) -> pa.Table:
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(source).read_all()
