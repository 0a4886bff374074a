"""Contamination: images that are in training and in validation or test as well, or in validation
and test.

- The same content: files of one size whose bytes have one hash (xxh3-128). Only files whose size
  occurs on both sides are read, and of large ones first the ends.
- The same id: one uid, or one number in collections that number their images alike.
- The same file name in two sets that say nothing of each other counts where the images look alike,
  because names such as 1.jpg mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from rapo.datasets.labels import SPLITS
from rapo.datasets.record_table import RecordTable
from rapo.errors import ImageError
from rapo.images.decode import decode_image, read_image_file
from rapo.util.file_digest import file_digest

_UNREADABLE = -1
_LOOK = 16  # the side of the small images that are compared
_ALIKE = 12.0  # mean difference of grey levels; re-encoding changes 1 or 2, another image 40


@dataclass(frozen=True, slots=True)
class Leak:
    """Record `row` shows the same image as record `held`, of a split that is kept for later: test,
    or for a training image validation. `kind` is "content", "id" or "name"."""

    row: int
    held: int
    kind: str


def find_leaks(records: RecordTable, *, look: bool = True) -> list[Leak]:
    """A leak for each record whose image a later split holds too, in the order of records. Without
    `look` no image is decoded, so that a file name alone is no leak."""
    train, validation, test = (np.flatnonzero(records.splits == SPLITS.index(split)) for split in SPLITS)
    found: list[Leak] = []
    for rows, held in ((np.concatenate([train, validation]), test), (train, validation)):
        for search in (partial(_same_id, look=look), _same_content):
            rest = rows[~np.isin(rows, np.array([leak.row for leak in found], np.int64))]
            if len(rest) and len(held):
                found += search(records, rest, held)
    return sorted(found, key=lambda leak: leak.row)


def _same_content(records: RecordTable, rows: NDArray[np.int64], held: NDArray[np.int64]) -> list[Leak]:
    for step in (_size, _ends):
        one, other = (np.fromiter(map(step, records.take(side).files()), np.int64) for side in (rows, held))
        rows, held = (
            rows[np.isin(one, other) & (one != _UNREADABLE)],
            held[np.isin(other, one) & (other != _UNREADABLE)],
        )
        if not len(rows):
            return []
    first: dict[bytes, int] = {}
    for row, file in zip(map(int, held), records.take(held).files(), strict=True):
        first.setdefault(_whole(file), row)
    digests = zip(map(int, rows), map(_whole, records.take(rows).files()), strict=True)
    return [Leak(row, first[digest], "content") for row, digest in digests if digest in first]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return _UNREADABLE


def _ends(path: str) -> int:
    """A hash of the first and the last bytes."""
    digest = file_digest(path, blocks=2)
    return _UNREADABLE if digest is None else digest >> 1


def _whole(path: str) -> bytes:
    """The hash of a file; of one that cannot be read any more, one that no other has."""
    digest = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return path.encode("utf-8", "surrogateescape")
    return digest.digest()


def _same_id(records: RecordTable, rows: NDArray[np.int64], held: NDArray[np.int64], *, look: bool) -> list[Leak]:
    """Records with one id or name. Ids are compared between sources only: within one, names are
    unique."""
    if len(records.parts) == 1:
        return []
    stems = [
        np.fromiter((hash(_stem(records, row)) for row in map(int, side)), np.int64, len(side)) for side in (rows, held)
    ]
    by_stem: dict[str, list[int]] = {}
    for row in map(int, held[np.isin(stems[1], stems[0])]):
        by_stem.setdefault(_stem(records, row), []).append(row)
    found = []
    for row in map(int, rows[np.isin(stems[0], stems[1])]):
        for other in by_stem.get(_stem(records, row), ()):
            if records.part[row] != records.part[other] and (kind := _relation(records, row, other, look=look)):
                found.append(Leak(row, other, kind))
                break
    return found


def _stem(records: RecordTable, index: int) -> str:
    name = records.parts[records.part[index]].labels.name(int(records.row[index]))
    base = name.rpartition("/")[2]
    return base.rpartition(".")[0] or base


def _relation(records: RecordTable, row: int, held: int, *, look: bool) -> str:
    a, b = records.parts[records.part[row]], records.parts[records.part[held]]
    if a.ids is not None and a.ids == b.ids:
        return "id"
    one, other = records[row], records[held]
    if one.uid == other.uid:
        return "id"
    return "name" if look and _look_alike(records.path(row), records.path(held)) else ""


def _look_alike(a: Path, b: Path) -> bool:
    small = [image for image in map(_small, (a, b)) if image is not None]
    return len(small) == 2 and float(np.abs(small[0] - small[1]).mean()) < _ALIKE


def _small(path: Path) -> NDArray[np.float64] | None:
    try:
        image = decode_image(read_image_file(path))
    except ImageError:
        return None
    return np.asarray(image.convert("L").resize((_LOOK, _LOOK)), np.float64)


def describe(records: RecordTable, leaks: list[Leak]) -> Iterator[dict[str, str]]:
    """Each leak in words, for the run's summary."""
    for leak in leaks:
        one, held = records[leak.row], records[leak.held]
        yield {"image": one.uid, "split": one.split, "kind": leak.kind, "also": held.uid, "also_in": held.split}
