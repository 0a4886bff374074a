"""AVA reader: `AVA.txt` with vote histograms, `<id>.jpg` images and list files for the splits
(Murray et al., CVPR 2012).

- A line of `AVA.txt` holds index, image id, ten counts of the votes 1..10, two tag ids and a
  challenge id, separated by blanks. There is no header.
- The official test split is `aesthetics_image_lists/generic_test.jpgl`, one id per line.
- `attributes.csv` is not AVA's: the embedded scenes have it (`rapo.datasets.attribute_file`).
"""

from __future__ import annotations

import math
from pathlib import Path

from rapo.config import SourceConfig
from rapo.datasets.attribute_file import ATTRIBUTES, read_attributes
from rapo.datasets.files.found import Found, LabelFile
from rapo.datasets.labels import LabelBuilder, strings
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelRow, LabelSource, raise_bad_rows, raise_duplicates
from rapo.errors import DataError
from rapo.records import Split

SCALE: tuple[float, float] = (1.0, 10.0)

_COLUMNS = 12  # index, id and the ten counts; the tags and the challenge are not used
_TEST_LIST = Path("aesthetics_image_lists", "generic_test.jpgl")
_VALIDATION_LIST = Path("aesthetics_image_lists", "validation.jpgl")


def read_ava(labels: Path, images: Path | None = None) -> LabelSource:
    """Read AVA's file of votes, `labels`, and the list files in its folder.

    Images lie in `images`, or else in the folder's images/ or image/, or in the folder itself. Only
    the ids of the list files have a split. Raises `DataError` for lines that do not fit.
    """
    folder = labels.parent
    image_folder = images if images is not None else _image_folder(folder)
    test, validation = _read_list(folder / _TEST_LIST), _read_list(folder / _VALIDATION_LIST)
    if both := sorted(test & validation):
        raise DataError(f"{folder / _VALIDATION_LIST}: image {both[0]!r} is in the test list too; remove it from one")

    attributes = read_attributes(folder / ATTRIBUTES)
    rows = LabelBuilder(image_folder)
    skipped: list[dict[str, str]] = []
    problems: list[str] = []
    for number, line in enumerate(_read_lines(labels), start=1):
        fields = line.split()
        if not fields:
            continue
        place = f"line {number}"
        try:
            if len(fields) < _COLUMNS:
                raise ValueError(f"{len(fields)} columns where AVA.txt has 15")
            votes = tuple(int(field) for field in fields[2:_COLUMNS])
            if min(votes) < 0:
                raise ValueError("a negative count of votes")
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        name = fields[1]
        if sum(votes) == 0:
            skipped.append({"image": name, "reason": "no_votes", "detail": f"{place} of {labels}"})
            continue
        mean, std = vote_statistics(votes)
        split: Split | None = "test" if name in test else "validation" if name in validation else None
        path = image_folder / f"{name}.jpg"
        rows.append(LabelRow(name, path, mean, place, std, votes, split, attributes.get(name)))
    raise_bad_rows(labels, problems, "A line holds index, image id, ten counts of votes, two tags, challenge.")
    if not rows:
        raise DataError(f"{labels} holds no rated image")
    built = rows.build()
    raise_duplicates(labels, built)

    used = [str(path) for path, ids in ((_TEST_LIST, test), (_VALIDATION_LIST, validation)) if ids]
    return LabelSource(
        name="ava",
        format="ava",
        path=folder,
        labels=built,
        split_source=" and ".join(used) or "hash",
        native_range=SCALE,
        skipped=tuple(skipped),
        listed_without_votes=len((test | validation).difference(strings(built.names))),
        ids="ava",
        files=(labels, *(path for name in (_TEST_LIST, _VALIDATION_LIST) if (path := folder / name).is_file())),
    )


def vote_statistics(votes: tuple[int, ...]) -> tuple[float, float]:
    """Mean and population standard deviation of a histogram of the votes 1..len(votes)."""
    total = sum(votes)
    mean = sum(value * count for value, count in enumerate(votes, start=1)) / total
    variance = sum(count * (value - mean) ** 2 for value, count in enumerate(votes, start=1)) / total
    return mean, math.sqrt(variance)


def _image_folder(folder: Path) -> Path:
    return next((folder / name for name in ("images", "image") if (folder / name).is_dir()), folder)


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {line.strip().removesuffix(".jpg") for line in _read_lines(path) if line.strip()}


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _votes_file(found: Found) -> Path | None:
    return next((file.path for file in found.files if _holds_votes(file)), None)


def holds_ava(found: Found) -> bool:
    """Whether AVA's file of votes is there."""
    return _votes_file(found) is not None


def _holds_votes(file: LabelFile) -> bool:
    """Whether a file's first lines are those of AVA.txt: numbers without a header, and votes."""
    table = file.table
    if table is None or table.kind != "text" or not table.without_header or len(table.columns) not in (14, 15):
        return False
    rows = [list(row.values()) for row in table.head(20)]
    return all(str(cell).lstrip("-").isdecimal() for row in rows for cell in row[:_COLUMNS])


def _read(found: Found, source: SourceConfig) -> LabelSource:
    labels = _votes_file(found) or (found.path if found.path.is_file() else found.path / "AVA.txt")
    return read_ava(labels, source.images)


register(
    Layout(
        name="ava",
        holds="AVA's folder (AVA.txt, images/<id>.jpg, aesthetics_image_lists/generic_test.jpgl)",
        recognises=holds_ava,
        read=_read,
    )
)
