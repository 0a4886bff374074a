"""Columns: finds a table's columns of image, score, spread, split and data set.

- A name that the configuration gives is taken as it is.
- Otherwise the usual names are known, in any case. Two candidates for one meaning are an error,
  except that a plain "image", "std", "split" or "dataset" goes before other names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rapo.config import ColumnsConfig
from rapo.datasets.files.cells import is_number
from rapo.datasets.files.raw_table import RawTable
from rapo.errors import DataError
from rapo.util.brief import brief, brief_names

#: The usual names of each column, in lower case.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_name", "imagename", "image name", "image_id", "imageid", "image_path", "img", "img_name",
              "img_path", "images", "filename", "file_name", "file name", "file", "path", "filepath"),
    "score": ("score", "gt_score", "mos", "mean_score", "mean", "aesthetic_score", "aesthetic", "rating"),
    "std": ("std", "sd", "stddev", "std_dev", "mos_std", "score_std"),
    "split": ("split", "set", "subset"),
    "dataset": ("dataset", "dataset_name"),
}  # fmt: skip

_ROLES = {"image": "image paths", "score": "scores"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table by meaning; None where there is none."""

    image: str
    score: str
    std: str | None = None
    split: str | None = None
    dataset: str | None = None

    def names(self) -> list[str]:
        """All that are there."""
        every = (self.image, self.score, self.std, self.split, self.dataset)
        return list(dict.fromkeys(name for name in every if name is not None))


def find_columns(table: RawTable, given: ColumnsConfig) -> Columns:
    """The columns of a table. Raises `DataError` where image or score is missing or not unique."""
    if table.without_header:
        return _without_header(table, given)
    image, score = (_needed(table, meaning, getattr(given, meaning)) for meaning in ("image", "score"))
    std, split, dataset = (_find(table, meaning, getattr(given, meaning)) for meaning in ("std", "split", "dataset"))
    return Columns(image, score, std, split, dataset)


def _needed(table: RawTable, meaning: str, given: str | None) -> str:
    found = _find(table, meaning, given)
    if found is None:
        also = f" (or {', '.join(map(repr, ALIASES[meaning][1:4]))}, ...)"
        raise DataError(
            f"{table.path} has no column {meaning!r}{also}, only {brief_names(sorted(set(table.columns)))}; rename the column of "
            f"{_ROLES[meaning]}, or name it by data.columns.{meaning}"
        )
    return found


def _find(table: RawTable, meaning: str, given: str | None) -> str | None:
    if given is not None:
        if not given:
            return None
        _raise_missing(table.path, table.columns, meaning, given)
        return given
    found = [name for name in dict.fromkeys(table.columns) if name.lower() in ALIASES[meaning]]
    if meaning != "score" and meaning in found:
        found = [meaning]
    if len(found) > 1:
        raise DataError(
            f"{table.path}: {' and '.join(map(brief, found[:3]))} may each be the column of {_ROLES.get(meaning, meaning)}; say "
            f"which by data.columns.{meaning}"
        )
    return found[0] if found else None


def _raise_missing(path: Path, columns: tuple[str, ...], meaning: str, given: str) -> None:
    if given not in columns:
        raise DataError(
            f"{path} has no column {given!r}, which data.columns.{meaning} names, only {brief_names(sorted(set(columns)))}"
        )


def _without_header(table: RawTable, given: ColumnsConfig) -> Columns:
    """Columns by their place: image, score, and perhaps the spread."""
    width = len(table.columns)
    if given != ColumnsConfig():
        named = {m: c for m in ALIASES if (c := getattr(given, m)) is not None}
        for meaning, name in named.items():
            _raise_missing(table.path, table.columns, meaning, name)
        return Columns(**{"image": "1", "score": "2"} | named)
    if width == 1:
        raise DataError(
            f"{table.path} is a list of names without scores. A list of a split belongs beside the labels of its collection: "
            "give the collection's folder"
        )
    if width not in (2, 3):
        raise DataError(
            f"{table.path} has {width} columns and no header; write a header with image and score, or name the columns by "
            'their numbers, for example data.columns = {image = "1", score = "2"}'
        )
    rows = table.head()
    if not any(is_number(str(row["2"]).strip(), comma=True) for row in rows):
        raise DataError(
            f"{table.path} holds no scores: it has no header, and its second column is {brief(rows[0]['2'])} and the like. "
            "Give the file with the scores"
        )
    return Columns("1", "2", "3" if width == 3 else None)
