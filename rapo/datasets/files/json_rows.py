"""JSON tables: a list of objects, or one object a line (JSON Lines)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from rapo.datasets.files.raw_table import BATCH, Batch, RawTable
from rapo.datasets.files.sniff import not_utf8, open_text
from rapo.errors import DataError
from rapo.util.brief import brief, brief_error

_HEAD = 200


def open_json_table(path: Path, meanings: Iterable[Collection[str]]) -> RawTable:
    """A JSON file as a table. Its columns are the keys of the first rows. A key of each of the
    `meanings`, which are names in lower case, must be there by then, or in no row."""
    with open_text(path) as file:
        listed = file.read(1 << 12).lstrip().startswith("[")
    word = "item" if listed else "line"
    columns: dict[str, None] = {}
    for _, row in islice(_objects(path, listed), _HEAD):
        columns |= dict.fromkeys(row)
    there = {name.lower() for name in columns}
    late = frozenset(name for names in meanings if there.isdisjoint(names) for name in names)

    def rows(wanted: Sequence[str]) -> Iterator[Batch]:
        found = _objects(path, listed)
        while taken := list(islice(found, BATCH)):
            for number, row in taken:
                if not row.keys() <= columns.keys() and (names := [name for name in row if name.lower() in late]):
                    raise DataError(
                        f"{path}: {word} {number} has {brief(names[0])}, which none of the first {_HEAD} rows has: give it in "
                        "every row or in none"
                    )
            places = np.array([number for number, _ in taken], np.int64)
            yield Batch(places, {name: [row.get(name) for _, row in taken] for name in wanted})

    return RawTable(path, "json", tuple(columns), word, rows)


def _objects(path: Path, listed: bool) -> Iterator[tuple[int, dict[str, object]]]:
    word = "item" if listed else "line"
    for number, row in _listed(path) if listed else _lines(path):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: {word} {number} is a JSON {type(row).__name__}; an object with image and score is needed"
            )
        yield number, {str(name).strip(): value for name, value in row.items()}


def _listed(path: Path) -> Iterator[tuple[int, object]]:
    with open_text(path) as file:
        rows = _parse(path, "file", file.read())
    assert isinstance(rows, list)
    yield from enumerate(rows, start=1)


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(path, f"line {number}", line, flat=True)
        except UnicodeDecodeError as error:
            raise not_utf8(path, error) from error


def _parse(path: Path, place: str, text: str, *, flat: bool = False) -> object:
    """The value of a text. Where it may be a `flat` object, it is read the quick way first."""
    try:
        if flat:
            row = json.loads(text)
            if isinstance(row, dict) and len(row) == text.count(":"):
                return row  # as many colons as keys: none of them is there twice
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        hint = (
            "; a file that begins with { needs one object a line, or brackets around all of them"
            if place == "line 1"
            else ""
        )
        raise DataError(f"{path}: {place} is not valid JSON: {brief_error(error)}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {place}: {brief_error(error)}") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {brief(next(n for n in names if names.count(n) > 1))} is there twice; keep one")
    return row
