"""Label rows: the result of every reader, before scores are normalised and images are checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rapo.errors import DataError
from rapo.records import Split
from rapo.util.brief import brief

if TYPE_CHECKING:
    from rapo.datasets.labels import Labels

#: The number of bad rows that an error names, and the characters after which it names no more.
NAMED_ROWS, _NAMED_LENGTH = 5, 160


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
    """All rows of one source.

    `name` is the data set's default name. `files` are the label files that were read; without any
    it is `path`. `split_source` says where its splits come from.
    `native_range` is the scale of the scores, None where the configuration must declare it;
    `std_range` that of the spreads, None where it is the scores'. `skipped` lists images without a
    label, as in `rapo.datasets.load.Dataset`. `notes` are sentences that a user should read.
    Collections with the same `ids` number their images alike, so that equal names are equal images.
    """

    name: str
    format: str
    path: Path
    labels: Labels
    split_source: str
    native_range: tuple[float, float] | None = None
    std_range: tuple[float, float] | None = None
    skipped: tuple[dict[str, str], ...] = ()
    listed_without_votes: int | None = None
    notes: tuple[str, ...] = ()
    ids: str | None = None
    files: tuple[Path, ...] = ()


def raise_bad_rows(path: Path, problems: Iterable[str], fix: str) -> None:
    """Raise `DataError` where there are problems, naming the first, each "line 7: the problem", and
    the `fix`."""
    named: list[str] = []
    more = 0
    for problem in problems:
        if len(named) < NAMED_ROWS and sum(map(len, named)) < _NAMED_LENGTH:
            named.append(problem)
        else:
            more += 1
    if named:
        tail = f"; and {more:,} more" if more else ""
        raise DataError(f"{path}: " + "; ".join(named) + f"{tail}. {fix}")


def raise_duplicates(path: Path, labels: Labels) -> None:
    """Raise `DataError` where an image has two scores."""
    problems = (
        f"{labels.place(second)}: image {brief(labels.name(second))} is already in {labels.place(first)}"
        for first, second in labels.duplicates()
    )
    raise_bad_rows(path, problems, "Keep one row per image.")
