"""Given predictions: reads another system's scores from a file, and finds those of each image.

- The file is any table that `rapo.datasets.files` reads: CSV, JSON Lines, Parquet and others. It
  has a column of images and one of scores, and optionally one of data sets. Without a header the
  first column is the image and the second the score.
- A row belongs to an image by its uid or its path, or by the end of its path as far as that is
  unique. A row whose data set is named belongs to that set only. No row belongs to two images.
- A cell without a number is an answer without a score. An image without a row is counted as such.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rapo.datasets.files.cells import image_names, numbers, texts
from rapo.datasets.files.columns import ALIASES
from rapo.datasets.files.open import open_table
from rapo.datasets.files.raw_table import RawTable
from rapo.errors import DataError
from rapo.evaluation.figures import Predicted
from rapo.evaluation.sets import EvalSet
from rapo.records import ImageRecord, Prediction
from rapo.util.brief import brief, brief_names

IMAGE = ("uid", *ALIASES["image"])
#: Columns of predicted scores; the first that a file has is taken. Human scores may lie beside it.
SCORE = ("aesthetic_score", "prediction", "predicted_score", "pred_score", "pred", "predicted", "mean_score_prediction",
         "score", "output")  # fmt: skip
#: Reasons for images without a score.
NO_ROW, NO_NUMBER = "no_row", "not_a_number"


@dataclass(frozen=True, slots=True)
class GivenScale:
    """The scale of a file's scores: `[low, high]`, or the native scale of each set (None)."""

    ends: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class _Row:
    name: PurePosixPath
    dataset: str
    score: float
    place: str


class GivenPredictions:
    """The rows of a predictions file. Raises `DataError` where it is no table or lacks a column."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = open_table(path)
        self._notes = list(table.notes)
        self._rows = list(_read(table))
        if not self._rows:
            raise DataError(f"{path} holds no predictions")
        self._by_stem: dict[str, list[_Row]] = defaultdict(list)
        #: The image that each row was found to be of, by the row's place.
        self._taken: dict[str, str] = {}
        for row in self._rows:
            self._by_stem[row.name.stem].append(row)

    def predicted(self, one: EvalSet, scale: GivenScale | None) -> tuple[Predicted | None, list[str]]:
        """The predictions for a set, None where the file has none for it; and what to say about
        them."""
        found = [self._find(record) for record in one.records]
        there = [row for row in found if row is not None]
        if not there:
            return None, [f"{self.path.name} has no row for {one.name}, for example not for {one.records[0].uid!r}"]
        notes, self._notes = self._notes, []  # said once
        if len(there) < len(found):
            example = next(record.uid for record, row in zip(one.records, found, strict=True) if row is None)
            notes.append(
                f"{self.path.name} has no row for {len(found) - len(there)} of {len(found)} images of {one.name}, for "
                f"example {example!r}; they count as images without a score"
            )
        low, width, unscaled = self._scale(one, scale)
        predictions = [_prediction(record, row, low, width) for record, row in zip(one.records, found, strict=True)]
        return Predicted(predictions, unscaled), notes

    def _scale(self, one: EvalSet, scale: GivenScale | None) -> tuple[float, float, str | None]:
        """The offset and the width that bring scores to [0, 1]; and why nothing does."""
        if scale is not None and scale.ends is None:
            return one.scale.offset, one.scale.width, None
        if scale is not None and scale.ends is not None:
            low, high = scale.ends
            return low, high - low, None
        known = [row.score for row in self._rows if math.isfinite(row.score)]
        if not known or (min(known) >= 0.0 and max(known) <= 1.0):
            return 0.0, 1.0, None
        return (
            0.0,
            1.0,
            (
                f"the scores in {self.path.name} reach from {min(known):.4g} to {max(known):.4g}, and their scale is not "
                "declared (FILE@LOW..HIGH, or FILE@native)"
            ),
        )

    def _find(self, record: ImageRecord) -> _Row | None:
        """The row of an image. Raises `DataError` where two fit equally well, or where it is
        another image's already."""
        path = PurePosixPath(str(record.path))
        name = PurePosixPath(record.uid)
        best: list[_Row] = []
        most = 0
        for row in (row for stem in {path.stem, name.stem} for row in self._by_stem.get(stem, ())):
            if row.dataset not in ("", record.dataset):
                continue
            fits = max(_common(row.name, path), _common(row.name, name))
            if fits > most:
                best, most = [row], fits
            elif fits and fits == most:
                best.append(row)
        if len(best) > 1 and len({row.score for row in best}) > 1:
            places = " and ".join(f"{row.place} ({row.name})" for row in best[:2])
            raise DataError(
                f"{self.path}: {places} may both be the image {record.uid!r}; add a column dataset, or give longer paths"
            )
        if not best:
            return None
        first = self._taken.setdefault(best[0].place, record.uid)
        if first != record.uid:
            raise DataError(
                f"{self.path}: {best[0].place} ({best[0].name}) may be the image {first!r} and {record.uid!r}; add a column "
                "dataset, or give longer paths"
            )
        return best[0]


def _read(table: RawTable) -> list[_Row]:
    image, score = ("1", "2") if table.without_header else (_column(table, IMAGE), _column(table, SCORE))
    named = {name.lower(): name for name in table.columns}
    dataset = next((named[name] for name in ALIASES["dataset"] if name in named), None)
    if table.without_header and "2" not in table.columns:
        raise DataError(f"{table.path} has one column; predictions need an image and a score in each row")
    rows = []
    wanted = [name for name in (image, score, dataset) if name is not None]
    table.check_once(wanted)
    for batch in table.rows(wanted):
        names, wrong = image_names(batch.cells[image])
        if wrong:
            place, problem = next(iter(wrong.items()))
            raise DataError(f"{table.path}: {table.word} {batch.places[place]}: {problem}")
        # What is no number is an answer without a score, which is part of what is measured.
        values, _ = numbers(batch.cells[score], score, comma=table.comma, empty=True)
        sets = [""] * len(values) if dataset is None else texts(batch.cells[dataset]).to_pylist()
        for name, one, value, place in zip(names.to_pylist(), sets, values, batch.places, strict=True):
            rows.append(_Row(PurePosixPath(name), one, float(value), f"{table.word} {place}"))
    return rows


def _column(table: RawTable, names: Sequence[str]) -> str:
    for name in names:
        found = [column for column in dict.fromkeys(table.columns) if column.lower() == name]
        if len(found) > 1:
            raise DataError(f"{table.path} has the columns {' and '.join(map(brief, found))}; keep one of them")
        if found:
            return found[0]
    raise DataError(
        f"{table.path} has none of the columns {', '.join(names[:6])}, only {brief_names(table.columns)}; rename the column "
        "of images to image and that of predicted scores to prediction"
    )


def _common(name: PurePosixPath, path: PurePosixPath) -> int:
    """How many parts at their ends two names have in common. An ending of the last part may be
    missing in `name`."""
    ours, theirs = list(name.parts), list(path.parts)
    if ours[-1] != theirs[-1]:
        if name.suffix or ours[-1] != path.stem:
            return 0
        ours[-1] = theirs[-1]
    count = 0
    for a, b in zip(reversed(ours), reversed(theirs), strict=False):
        if a != b:
            break
        count += 1
    return count


def _prediction(record: ImageRecord, row: _Row | None, low: float, width: float) -> Prediction:
    if row is None or not math.isfinite(row.score):
        reason = NO_ROW if row is None else NO_NUMBER
        return Prediction(record.uid, record.dataset, record.score, None, "", reason, "given")
    return Prediction(record.uid, record.dataset, record.score, (row.score - low) / width, "", readout="given")
