"""Look: what is wrong with the images of a source, as far as a few seconds tell.

- Every file is looked for.
- Headers are read in an order that spreads over the table, until the time is up; the first ones are
  decoded as well. How many were looked at is said.
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

#: Images that are decoded, and of one task.
_DECODED, _TASK = 32, 64
#: Multiples of the golden ratio fall evenly into any table.
_GOLDEN = 0.6180339887498949


@dataclass(slots=True)
class ImagesSeen:
    """`missing` of `images` are not there. Of the others `opened` were looked at, and `unusable`
    counts those that cannot be used, by reason; `examples` has one of each."""

    images: int = 0
    missing: int = 0
    opened: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def found(self) -> Counter[str]:
        """The unusable images by reason, the missing ones included."""
        return self.unusable + Counter(missing=self.missing)


def look_at_images(
    records: RecordTable, limits: ImageConfig, check_size: CheckSize | None, seconds: float
) -> ImagesSeen:
    """Look for the image of each record, and into as many as `seconds` allow."""
    there = np.fromiter(map(os.path.isfile, records.files()), bool, len(records))
    seen = ImagesSeen(images=len(records), missing=int((~there).sum()))
    if seen.missing:
        record = records[int(np.flatnonzero(~there)[0])]
        seen.examples["missing"] = f"{record.uid.removeprefix(record.dataset + '/')!r} is not at {record.path}"
    rows = np.flatnonzero(there)
    rows = rows[np.argsort(np.arange(1, len(rows) + 1) * _GOLDEN % 1.0, kind="stable")]
    deadline = time.monotonic() + seconds
    _look(records, limits, check_size, rows[:_DECODED], seen, decode=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pieces = [rows[start : start + _TASK] for start in range(_DECODED, len(rows), _TASK)]

        def look(piece: NDArray[np.int64]) -> None:
            if time.monotonic() < deadline:
                _look(records, limits, check_size, piece, seen, decode=False)

        for _ in pool.map(look, pieces):
            pass
    return seen


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
            seen.unusable[error.reason] += 1
            seen.examples.setdefault(error.reason, f"{records.path(row)}: {error}")
    seen.opened += len(rows)
