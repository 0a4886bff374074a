"""Table reader: images and scores in CSV, JSON Lines, a JSON list, or Parquet.

The columns are image (a path, relative to the table's folder or to `data.images`), score (or
gt_score), and where known std (of the raters, on the scores' scale) and split (train, validation or
test).
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rapo.datasets.rows import LabelRow, LabelSource, raise_bad_rows, raise_duplicates
from rapo.errors import DataError, ResourceError
from rapo.records import Split

_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

#: A row of the file: its place, and its cells by column.
_RawRow = tuple[str, dict[str, object]]


def read_table(path: Path, images: Path | None = None) -> LabelSource:
    """Read a table, without looking for its images. Raises `DataError` naming the rows at fault."""
    reader = READERS[path.suffix.lower()]
    folder = images if images is not None else path.parent
    try:
        raw = list(reader(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not raw:
        raise DataError(f"{path} holds no rows; it needs the columns image and score")
    columns = {name for _, row in raw for name in row}
    score_column = _score_column(path, columns)
    rows: list[LabelRow] = []
    problems: list[str] = []
    for place, cells in raw:
        try:
            rows.append(_row(folder, place, cells, score_column, with_split="split" in columns))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    raise_bad_rows(path, problems, "Each row needs an image and a number as its score.")
    raise_duplicates(path, rows)
    return LabelSource(
        name=path.stem,
        format="table",
        path=path,
        rows=tuple(rows),
        split_source="column" if "split" in columns else "hash",
    )


def _score_column(path: Path, columns: set[str]) -> str:
    if "image" not in columns:
        raise DataError(f"{path} has no column 'image', only {sorted(columns)}; rename the column of image paths")
    for name in ("score", "gt_score"):
        if name in columns:
            return name
    raise DataError(
        f"{path} has no column 'score' (or 'gt_score'), only {sorted(columns)}; rename the column of scores"
    )


def _row(folder: Path, place: str, cells: dict[str, object], score_column: str, *, with_split: bool) -> LabelRow:
    image = cells.get("image")
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"image is {image!r}, not a path")
    name = os.path.normpath(image.strip()).replace(os.sep, "/")
    path = folder / name
    if Path(name).is_absolute():
        name = os.path.relpath(name, folder) if Path(name).is_relative_to(folder) else name.lstrip("/")
    std = _number(cells["std"], "std") if _given(cells.get("std")) else None
    if std is not None and std < 0:
        raise ValueError(f"std {std:g} is negative")
    split: Split | None = None
    if with_split:
        word = str(cells.get("split") or "").strip().lower()
        if word not in _SPLITS:
            raise ValueError(f"split {cells.get('split')!r} is none of train, validation, test")
        split = _SPLITS[word]
    return LabelRow(name, path, _number(cells.get(score_column), score_column), place, std=std, split=split)


def _given(value: object) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _number(value: Any, column: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{column} {value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{column} {value!r} is not a finite number")
    return number


def _read_csv(path: Path) -> Iterator[_RawRow]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=head.count)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells where the header has {len(header)}; "
                    "quote cells that hold the delimiter"
                )
            named = itertools.zip_longest(header, cells, fillvalue="")
            yield f"line {reader.line_num}", {name: cell.strip() for name, cell in named}


def _read_jsonl(path: Path) -> Iterator[_RawRow]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _object(path, f"line {number}", _parse(path, f"line {number}", line))


def _read_json(path: Path) -> Iterator[_RawRow]:
    rows = _parse(path, "file", path.read_text(encoding="utf-8-sig") or "[]")
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a JSON {type(rows).__name__}; a list of objects is needed")
    for number, row in enumerate(rows, start=1):
        yield f"item {number}", _object(path, f"item {number}", row)


def _read_parquet(path: Path) -> Iterator[_RawRow]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise ResourceError(f"{path} needs the package pyarrow; install rapo[system], or give a CSV file") from error
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name.strip() in _COLUMNS]
            # Without a known column all columns are read, so that the error can list them.
            rows = file.read(columns=wanted or None).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", {name.strip(): value for name, value in row.items()}


def _parse(path: Path, place: str, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: {place} is not valid JSON: {error}") from error


def _object(path: Path, place: str, row: object) -> dict[str, object]:
    if not isinstance(row, dict):
        raise DataError(f"{path}: {place} is a JSON {type(row).__name__}; an object with image and score is needed")
    return {name.strip(): value for name, value in row.items()}


_COLUMNS = frozenset({"image", "score", "gt_score", "std", "split"})

#: The reader of each file name ending.
READERS: dict[str, Callable[[Path], Iterator[_RawRow]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
