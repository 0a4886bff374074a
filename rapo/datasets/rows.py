"""Label rows: the result of every reader, before scores are normalised and images are checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rapo.errors import DataError
from rapo.records import Split

#: The number of bad rows that an error names.
NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One rated image. `score` and `std` are on the data set's own scale; `place` is its place in
    the file, such as "line 7". `attributes` are as in `rapo.records.ImageRecord`."""

    name: str
    path: Path
    score: float
    place: str
    std: float | None = None
    votes: tuple[int, ...] | None = None
    split: Split | None = None
    attributes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class LabelSource:
    """All rows of one data set.

    `name` is the data set's default name. `split_source` says where its splits come from.
    `native_range` is the scale of the scores, None where the configuration must declare it.
    `skipped` lists images without a label, as in `rapo.datasets.load.Dataset`.
    """

    name: str
    format: str
    path: Path
    rows: tuple[LabelRow, ...]
    split_source: str
    native_range: tuple[float, float] | None = None
    skipped: tuple[dict[str, str], ...] = ()
    listed_without_votes: int | None = None


def raise_bad_rows(path: Path, problems: list[str], fix: str) -> None:
    """Raise `DataError` where there are problems, naming the first, each "line 7: the problem", and
    the `fix`."""
    if problems:
        more = len(problems) - NAMED_ROWS
        tail = f"; and {more:,} more" if more > 0 else ""
        raise DataError(f"{path}: " + "; ".join(problems[:NAMED_ROWS]) + f"{tail}. {fix}")


def raise_duplicates(path: Path, rows: list[LabelRow]) -> None:
    """Raise `DataError` where an image has two scores."""
    first: dict[str, LabelRow] = {}
    problems = []
    for row in rows:
        seen = first.setdefault(row.name, row)
        if seen is not row:
            problems.append(f"{row.place}: image {row.name!r} is already in {seen.place}")
    raise_bad_rows(path, problems, "Keep one row per image.")
