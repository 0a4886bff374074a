"""What a reader of one on-disk format hands over, before scores are normalised and images are
looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapo.errors import DataError
from rapo.records import Split

#: How many bad rows an error names.
NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One rated image. `score` and `std` are native; `place` says where it stands, such as "line
    7"."""

    name: str
    path: Path
    score: float
    place: str
    std: float | None = None
    votes: tuple[int, ...] | None = None
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class LabelSource:
    """All rows of one data set. `name` is the default data set name; `native_range` None: to be
    declared."""

    name: str
    format: str
    path: Path
    rows: tuple[LabelRow, ...]
    split_source: str
    native_range: tuple[float, float] | None = None
    skipped: tuple[dict[str, str], ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


def raise_bad_rows(path: Path, problems: list[str], fix: str) -> None:
    """Raise `DataError` naming the first problems, each "line 7: what is wrong", if there are
    any."""
    if problems:
        more = len(problems) - NAMED_ROWS
        tail = f"; and {more:,} more" if more > 0 else ""
        raise DataError(f"{path}: " + "; ".join(problems[:NAMED_ROWS]) + f"{tail}. {fix}")


def raise_duplicates(path: Path, rows: list[LabelRow]) -> None:
    """Raise `DataError` if an image is rated twice: which of the scores should count is not ours to
    guess."""
    first: dict[str, LabelRow] = {}
    problems = []
    for row in rows:
        seen = first.setdefault(row.name, row)
        if seen is not row:
            problems.append(f"{row.place}: image {row.name!r} stands in {seen.place} already")
    raise_bad_rows(path, problems, "Keep one row per image.")
