"""Cells: turns cells into numbers and image names, strictly.

- A number is digits with at most one point and an exponent. `1_537`, `nan` and `inf` are none.
- A decimal comma counts where the table's delimiter leaves it free.
- An image name is relative with forward slashes, or absolute.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rapo.arrays import Floats
from rapo.datasets.files.raw_table import Cells
from rapo.util.brief import brief

_NUMBER = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
_COMMA_NUMBER = r"^[+-]?\d*,\d+$"
#: Names that need a closer look: whitespace around them, a backslash, a doubled slash, "." or "..".
_UNTIDY = r"^\s|\s$|\\|//|(?:^|/)\.{1,2}(?:/|$)|^/|://"
_IS_NUMBER = re.compile(_NUMBER, re.ASCII)

#: What is wrong with the cells of some rows of a batch, by row.
Problems = dict[int, str]


def is_number(text: str, *, comma: bool = False) -> bool:
    """Whether a cell of text is a number."""
    return bool(_IS_NUMBER.match(text.replace(",", ".", 1) if comma else text))


def numbers(cells: Cells, column: str, *, comma: bool = False, empty: bool = False) -> tuple[Floats, Problems]:
    """The numbers of a column, NaN where there is a problem. `comma` allows a decimal comma;
    `empty` allows empty cells, which are NaN too."""
    if isinstance(cells, list):
        if (plain := _plain_numbers(cells)) is not None:
            return plain, {}
        return _each(cells, lambda value: _number(value, column, empty=empty))
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return _text_numbers(cells, column, comma=comma, empty=empty)
    if not (pa.types.is_floating(cells.type) or pa.types.is_integer(cells.type) or pa.types.is_decimal(cells.type)):
        return _each(cells.to_pylist(), lambda value: _number(value, column, empty=empty))
    values = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # an integer beyond 2**53 is rounded
    missing = cells.is_null().to_numpy(zero_copy_only=False)
    wrong = ~np.isfinite(values)
    if empty:  # NaN means no value in columns of floats
        wrong &= ~(missing | np.isnan(values))
    problems = {
        int(i): f"{column} is empty" if missing[i] else f"{column} {values[i]!s} is not a finite number"
        for i in np.flatnonzero(wrong)
    }
    return values, problems


def _plain_numbers(cells: list[object]) -> Floats | None:
    """Numbers of JSON; None where there is anything else among them."""
    if set(map(type, cells)) <= {int, float}:
        with suppress(OverflowError):
            values = np.array(cells, np.float64)
            if np.isfinite(values).all():
                return values
    return None


def _plain_texts(cells: list[object]) -> Cells:
    """Strings of JSON as Arrow's; the same list where there is anything else among them."""
    if set(map(type, cells)) == {str}:
        with suppress(UnicodeEncodeError):  # half of a character
            return pa.array(cells, pa.large_string())
    return cells


def _text_numbers(cells: pa.Array, column: str, *, comma: bool, empty: bool) -> tuple[Floats, Problems]:
    text = pc.fill_null(pc.utf8_trim_whitespace(cells), "")
    if comma:
        decimal = pc.match_substring_regex(text, _COMMA_NUMBER)
        text = pc.if_else(decimal, pc.replace_substring(text, ",", "."), text)
    fine = pc.match_substring_regex(text, _NUMBER)
    values = pc.if_else(fine, text, pa.scalar(None, text.type)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    wrong = ~np.isfinite(values)
    if empty:
        wrong &= pc.not_equal(text, "").to_numpy(zero_copy_only=False)
    problems = {int(i): _not_a_number(column, cells[int(i)].as_py(), comma=comma) for i in np.flatnonzero(wrong)}
    return values, problems


def _not_a_number(column: str, value: object, *, comma: bool) -> str:
    words = f"{column} {brief(value)} is not a number"
    if not isinstance(value, str):
        return words
    if value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity") or is_number(value.strip()):
        return f"{column} {brief(value)} is not a finite number"
    if is_number(value.strip().replace("_", "")):
        return f"{words}: it has an underscore where a decimal point may be meant"
    if not comma and is_number(value.strip(), comma=True):
        return f"{words}: write decimals with a point, or separate the cells by semicolons"
    return words


def _number(value: object, column: str, *, empty: bool) -> float:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        if empty:
            return math.nan
    elif isinstance(value, str) and is_number(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_not_a_number(column, value, comma=False))
    with suppress(OverflowError):  # an integer beyond all floats
        if math.isfinite(value):
            return float(value)
    raise ValueError(f"{column} {brief(value)} is not a finite number")


def _each(values: Sequence[object], parse: Callable[[object], float]) -> tuple[Floats, Problems]:
    result, problems = np.full(len(values), np.nan), {}
    for index, value in enumerate(values):
        try:
            result[index] = parse(value)
        except ValueError as error:
            problems[index] = str(error)
    return result, problems


def texts(cells: Cells) -> pa.Array:
    """A column of words: stripped, empty where there is none."""
    if isinstance(cells, list) or not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        values = cells if isinstance(cells, list) else cells.to_pylist()
        return pa.array(["" if value is None else _text(str(value)).strip() for value in values], pa.large_string())
    return pc.fill_null(pc.utf8_trim_whitespace(cells), "").cast(pa.large_string())


def _is_text(value: str) -> bool:
    """Whether a string of JSON is text: an escape may name half of a character."""
    return value.isascii() or _text(value) == value


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def image_names(cells: Cells) -> tuple[pa.Array, Problems]:
    """The image names of a column: a name, or a list of one (as in exchange rows)."""
    problems: Problems = {}
    if isinstance(cells, list):
        cells = _plain_texts(cells)
    if isinstance(cells, list) or not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        values = cells if isinstance(cells, list) else cells.to_pylist()
        names = [""] * len(values)
        for index, value in enumerate(values):
            one = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(one, int) and not isinstance(one, bool):
                one = str(one)  # ids of collections that number their images
            if isinstance(one, str) and _is_text(one):
                names[index] = one
            else:
                problems[index] = f"image is {brief(value)}, not a path"
        column = pa.array(names, pa.large_string())
    else:
        column = pc.fill_null(cells, "").cast(pa.large_string())
    untidy = pc.or_(pc.match_substring_regex(column, _UNTIDY), pc.equal(column, "")).to_numpy(zero_copy_only=False)
    if not untidy.any():
        return column, problems
    names = column.to_pylist()
    for index in map(int, np.flatnonzero(untidy)):
        name = names[index].strip()
        if not name:
            problems.setdefault(index, f"image is {brief(name)}, not a path")
        elif "://" in name:
            problems[index] = f"image {brief(name)} is an address; download the images and give their paths"
        else:
            names[index] = os.path.normpath(name.replace("\\", "/")).replace(os.sep, "/")
    return pa.array(names, pa.large_string()), problems
