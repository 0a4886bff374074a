"""Parquet files: rows in, rows out. A file appears whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.files.atomic import disk_full_named, write_atomic
from rapo.util.atomic_dir import sync


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    write_atomic(path, buffer.getvalue())


def read_parquet(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer for more rows than memory holds. The file appears when the block ends without an
    error."""
    aside = path.with_name(f".{path.name}.part")
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(aside, schema) as writer:
            yield writer
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
