"""Hugging Face data sets: a folder that `datasets` saved, a folder of Parquet shards, or a name of
the hub.

- The names of splits are those of the data set. One that is no split leaves its rows without.
- A name of the hub is read from the local cache; `data.online` allows a download.
- Images in the rows, as {bytes, path}, are unpacked when the data is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rapo.config import SourceConfig
from rapo.datasets.files.arrow_table import arrow_table
from rapo.datasets.files.found import Found, LabelFile, lacking_shards, split_of_name
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.labels import joined
from rapo.datasets.layout import Layout, register
from rapo.datasets.layouts.table import read_table
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError, ResourceError
from rapo.util.brief import brief_error

if TYPE_CHECKING:
    import datasets

_SAVED = ("state.json", "dataset_dict.json")
_SHARD = (".parquet", ".arrow")
_ROWS = 64


def _saved(found: Found) -> bool:
    return found.path.is_dir() and any((found.path / name).is_file() for name in _SAVED)


def _shards(found: Found) -> list[LabelFile]:
    """The Parquet files of a folder with nothing else, all with the same columns."""
    if not found.path.is_dir():
        return []
    shards = [file for file in found.files if file.table is not None and file.table.kind in ("parquet", "arrow")]
    columns = {file.table.columns for file in shards if file.table is not None}
    others = [file for file in found.files if file.table is not None and file not in shards and file.has("image")]
    return shards if len(columns) == 1 and not others else []


def _read(found: Found, source: SourceConfig) -> LabelSource:
    if source.hub is not None:
        name, tables = source.hub.rpartition("/")[2], _tables(_load(source, found), found.path)
    elif _saved(found):
        name, tables = found.path.name, _tables(_load(source, found), found.path)
    else:
        name = found.path.name
        tables = {
            str(file.path.relative_to(found.path)): file.table for file in _shards(found) if file.table is not None
        }
    if not tables:
        raise DataError(
            f"{source.hub or found.path} is no data set of Hugging Face: no saved one, and no Parquet files"
        )
    if not source.hub and (lacking := lacking_shards(map(Path, tables))):
        raise DataError(
            f"{found.path}: shards are missing ({len(lacking):,}, for example {lacking[0]}); fetch them, or rename the others "
            "where these are to be all"
        )
    parts = []
    for key, table in tables.items():
        read = read_table(table, found, source.model_copy(update={"role": "split"}), name)
        split = split_of_name(Path(key), above=1)
        labels = read.labels if split is None or read.labels.splits is not None else read.labels.with_splits(split)
        parts.append((key, labels))
    labels = joined(parts)
    raise_duplicates(found.path, labels)
    return LabelSource(
        name=name,
        format="hub",
        path=found.path,
        labels=labels,
        split_source="hash" if labels.splits is None else f"splits {', '.join(tables)}",
        files=tuple(sorted(path for path in found.path.rglob("*") if path.suffix in _SHARD)),
    )


def _load(source: SourceConfig, found: Found) -> dict[str, datasets.Dataset]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ResourceError("data sets of Hugging Face need the package datasets; install rapo[system]") from error
    try:
        with _offline(source.hub is not None and source.online):
            if source.hub is None:
                loaded = datasets.load_from_disk(str(found.path))
            else:
                loaded = datasets.load_dataset(source.hub)
    # KeyError, TypeError: its JSON files hold something else.
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        hint = (
            ""
            if source.online or source.hub is None
            else ". It is read from the local cache: data.online = true downloads it"
        )
        raise DataError(f"cannot read the data set {source.hub or found.path}: {brief_error(error)}{hint}") from error
    return dict(loaded) if isinstance(loaded, dict) else {str(getattr(loaded, "split", None) or "rows"): loaded}


@contextmanager
def _offline(online: bool) -> Iterator[None]:
    """Without the network, unless `online`. The environment variables for it are read once, when
    the libraries are imported, which may be long ago."""
    import datasets.config
    import huggingface_hub.constants

    modules = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value or not online
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _tables(splits: dict[str, datasets.Dataset], path: Path) -> dict[str, RawTable]:
    return {name: _table(rows, path) for name, rows in splits.items()}


def _table(rows: datasets.Dataset, path: Path) -> RawTable:
    schema = rows.features.arrow_schema

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        whole = [name if name in schema.names else name.rpartition(".")[0] for name in columns]
        for table in rows.select_columns(whole).with_format("arrow").iter(_ROWS):
            yield from table.combine_chunks().to_batches()

    return arrow_table(path, "hub", schema, batches)


register(
    Layout(
        name="hub",
        holds="a data set of Hugging Face (data.hub, or a folder that `datasets` saved, or of Parquet files)",
        recognises=lambda found: _saved(found) or bool(_shards(found)),
        read=_read,
    )
)
