"""Look: what is wrong with the images of a source, as far as a few seconds tell.

- Files are looked for, and headers read, in an order that spreads over the table, until the time is
  up: a folder on the network may hold a million. The first ones are decoded as well.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rapo.config import ImageConfig
from rapo.datasets.images.usable import CheckSize
from rapo.datasets.record_table import RecordTable
from rapo.errors import ImageError
from rapo.images.decode import check_image_file

#: So many images are decoded.
DECODED = 32
#: Images of one task.
_TASK = 64
#: Files that are looked for before the next look at the clock.
_PIECE = 2048
#: Multiples of the golden ratio fall evenly into any table.
_GOLDEN = 0.6180339887498949


@dataclass(slots=True)
class ImagesSeen:
    """Of `images` so many were `looked_for`, and `missing` of these are not there. `opened` of the
    others were looked into, and `unusable` counts those that cannot be used, by reason; `examples`
    has one of each, and `bad` has the rows of all."""

    images: int = 0
    looked_for: int = 0
    missing: int = 0
    opened: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)

    @property
    def looked_at(self) -> int:
        """The images of which it is known whether they can be used."""
        return self.missing + self.opened

    def refuse(self, row: int, reason: str, example: str) -> None:
        """Count a row's image as one that cannot be used."""
        self.unusable[reason] += 1
        self.bad.append(row)
        self.examples.setdefault(reason, example)

    def found(self) -> Counter[str]:
        """The unusable images by reason, the missing ones included."""
        return self.unusable + Counter(missing=self.missing)


def look_at_images(
    records: RecordTable, limits: ImageConfig, check_size: CheckSize | None, seconds: float
) -> ImagesSeen:
    """Look for the image of each record, and into each, as far as `seconds` allow: half for one,
    half for the other."""
    began = time.monotonic()
    seen = ImagesSeen(images=len(records))
    order = np.argsort(np.arange(1, len(records) + 1) * _GOLDEN % 1.0, kind="stable")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = _look_for(records, order, seen, pool, began + seconds / 2)
        _look(records, limits, check_size, rows[:DECODED], seen, decode=True)

        def look(piece: NDArray[np.int64]) -> None:
            if time.monotonic() < began + seconds:
                _look(records, limits, check_size, piece, seen, decode=False)

        for _ in pool.map(look, [rows[start : start + _TASK] for start in range(DECODED, len(rows), _TASK)]):
            pass
    return seen


def _look_for(
    records: RecordTable, order: NDArray[np.int64], seen: ImagesSeen, pool: ThreadPoolExecutor, deadline: float
) -> NDArray[np.int64]:
    """The rows whose files are there, in `order`, until the deadline."""
    found = []
    for start in range(0, len(order), _PIECE):
        if start and time.monotonic() > deadline:
            break
        piece = order[start : start + _PIECE]
        there = np.fromiter(pool.map(os.path.isfile, records.take(piece).files(), chunksize=_TASK), bool, len(piece))
        found.append(piece[there])
        seen.looked_for += len(piece)
        seen.missing += int((~there).sum())
        seen.bad += piece[~there].tolist()
        if "missing" not in seen.examples and not there.all():
            record = records[int(piece[~there].min())]
            seen.examples["missing"] = f"{record.uid.removeprefix(record.dataset + '/')!r} is not at {record.path}"
    return np.concatenate(found) if found else order[:0]


def _look(
    records: RecordTable,
    limits: ImageConfig,
    check_size: CheckSize | None,
    rows: NDArray[np.int64],
    seen: ImagesSeen,
    *,
    decode: bool,
) -> None:
    for row in map(int, rows):
        try:
            size = check_image_file(records.path(row), limits, decode=decode)
            if check_size is not None:
                check_size(*size)
        except ImageError as error:
            seen.refuse(row, error.reason, f"{records.path(row)}: {error}")
    seen.opened += len(rows)
