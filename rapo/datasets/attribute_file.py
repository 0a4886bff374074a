"""Attribute file: the true value of each aesthetic dimension in each image, beside the labels.

    image,light and shadow,mood and narrative,composition,color,exposure
    10000000,0.15,0.97,0.5,0.03,0.61

Values lie in [0, 1]. The file is optional; images that it does not name have no attributes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from rapo.datasets.files.cells import is_number
from rapo.datasets.rows import raise_bad_rows
from rapo.errors import DataError
from rapo.records import DIMENSIONS

ATTRIBUTES = "attributes.csv"

_HEADER = ["image", *DIMENSIONS]


def attribute_lines(rows: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    """The file's text for rows of image and attributes; floats are written so that they are read
    back exactly."""
    lines = [_HEADER, *([image, *(repr(values[name]) for name in DIMENSIONS)] for image, values in rows)]
    return "".join(",".join(line) + "\n" for line in lines)


def read_attributes(path: Path) -> dict[str, tuple[float, ...]]:
    """The attributes of each image by its name; empty where there is no file.

    Raises `DataError` for another header, and for rows that do not fit.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not rows or rows[0] != _HEADER:
        raise DataError(f"{path}: the first line must be {','.join(_HEADER)}")
    found: dict[str, tuple[float, ...]] = {}
    problems = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            image, *fields = row
            values = tuple(float(field) for field in fields if is_number(field))
            if len(values) != len(DIMENSIONS) or not all(0.0 <= value <= 1.0 for value in values) or image in found:
                raise ValueError
        except ValueError:
            problems.append(f"line {number}: {','.join(row)!r}")
            continue
        found[image] = values
    raise_bad_rows(path, problems, f"A line holds an image, once, and {len(DIMENSIONS)} numbers from 0 to 1.")
    return found
