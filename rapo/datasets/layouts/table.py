"""Table layout: a file with an image and a score in each row, as CSV (or with semicolons, tabs or
whitespace), JSON, JSON Lines, Parquet, Arrow or Excel.

- The columns are image, score, and where there are such: std (of the raters), split and dataset.
- A list of `{image, gt_score}`, as the field publishes its test sets, is for testing only. So is a
  table without splits whose name says so.
"""

from __future__ import annotations

from pathlib import Path

from rapo.config import SourceConfig
from rapo.datasets.files.columns import Columns, find_columns
from rapo.datasets.files.found import Found, split_of_name
from rapo.datasets.files.frame import read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.labels import EmbeddedImages, Labels, strings
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_bad_rows, raise_duplicates
from rapo.errors import DataError
from rapo.records import Split


def _recognises(found: Found) -> bool:
    return found.path.is_file() and found.files[0].table is not None


def _read(found: Found, source: SourceConfig) -> LabelSource:
    if not found.path.is_file():
        raise DataError(f"data.path {found.path} is not a table file, but data.format is 'table'")
    table = found.files[0].table
    if table is None:
        raise DataError(found.files[0].problem)
    return read_table(table, found, source)


def read_table(table: RawTable, found: Found, source: SourceConfig, name: str | None = None) -> LabelSource:
    """Read a table, without looking for its images. Raises `DataError` naming the rows at fault."""
    if not table.columns:
        raise DataError(f"{table.path} holds no rows; it needs the columns image and score")
    columns = find_columns(table, source.columns)
    labels = _labels(table, columns, found.images or table.path.parent)
    raise_duplicates(table.path, labels)
    notes = []
    if table.without_header:
        notes.append(f"{table.path.name} has no header: its columns were taken as {', '.join(columns.names())}")
    split_source = "hash" if labels.splits is None else "column"
    if labels.splits is None and source.role == "auto":
        only, why = _only_for(table)
        if only is not None:
            labels, split_source = labels.with_splits(only), why
    return LabelSource(
        name=name or table.path.stem,
        format="table",
        path=table.path,
        labels=labels,
        split_source=split_source,
        notes=tuple(notes),
    )


def _labels(table: RawTable, columns: Columns, root: Path) -> Labels:
    """The rows of a table as labels, whose columns of words are gone when it returns."""
    frame = read_frame(
        table,
        columns.image,
        [columns.score],
        optional=[columns.std] if columns.std else [],
        words=[word for word in (columns.split, columns.dataset) if word],
    )
    if columns.dataset is not None:
        empty = [row for row, word in enumerate(strings(frame.words[columns.dataset])) if not word]
        raise_bad_rows(
            table.path, (f"{table.word} {frame.places[row]}: dataset is empty" for row in empty), "Name each row's set."
        )
    labels = frame_labels(
        frame,
        root,
        frame.numbers[columns.score],
        stds=frame.numbers[columns.std] if columns.std else None,
        splits=columns.split,
        sets=columns.dataset,
    )
    return _embedded(labels, table, columns.image) if columns.image in table.images else labels


def _only_for(table: RawTable) -> tuple[Split | None, str]:
    """The split that a table without a split column is for, and why."""
    if table.kind == "json" and set(table.columns) == {"image", "gt_score"}:
        return "test", "a list of {image, gt_score} is for testing"
    split = split_of_name(table.path, above=1)
    return (None, "") if split in (None, "train") else (split, f"its path says {split}")


def _embedded(labels: Labels, table: RawTable, column: str) -> Labels:
    """Labels whose images lie in the table itself. A row without a telling name gets its number."""
    names = [name.rpartition("/")[2] if name.startswith("/") else name for name in labels.files.to_pylist()]
    if len(set(names)) < len(names) or "" in names:
        names = [
            f"row-{place:08d}" + (f"/{name}" if name else "") for place, name in zip(labels.places, names, strict=True)
        ]
    return labels.with_images(names, EmbeddedImages(table, column))


register(
    Layout(
        name="table",
        holds="a file with the columns image and score[, std, split, dataset], as CSV, JSON, JSON Lines, Parquet "
        "(.parquet) or Excel",
        recognises=_recognises,
        read=_read,
        fallback=True,
    )
)
