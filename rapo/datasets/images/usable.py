"""Usable images: picks rows whose images can be used, in the order of a stable hash.

Images are checked only until enough are found, so that a small subsample of a large set is ready at
once. No image is checked twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from rapo.config import ImageConfig
from rapo.datasets.record_table import RecordTable
from rapo.datasets.splits import hash_fractions
from rapo.errors import ImageError
from rapo.images.decode import check_image_file
from rapo.records import ImageRecord

#: Rows that are checked before the next decision whether there are enough, and rows of one task.
_CHUNK, _TASK = 4096, 64

_UNKNOWN, _GOOD, _BAD = 0, 1, 2

#: Raises `ImageError` where an image of this width and height does not fit the model.
CheckSize = Callable[[int, int], None]


class Usable:
    """`bad` lists the unusable images among those checked: image, reason, detail and uid."""

    def __init__(
        self, records: RecordTable, limits: ImageConfig, seed: int, *, decode: bool, check_size: CheckSize | None = None
    ) -> None:
        self._records = records
        self._limits = limits
        self._seed = seed
        self._decode = decode
        self._check_size = check_size
        self._state = np.zeros(len(records), np.int8)
        self.bad: list[dict[str, str]] = []

    def pick(self, rows: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
        """Up to `limit` of `rows` with usable images, the first ones by hash; all of them without
        a limit."""
        if limit is not None and limit < len(rows):
            uids = self._records.take(rows).uids()
            rows = rows[np.argsort(hash_fractions(self._seed, uids, "subsample"), kind="stable")]
        limit = len(rows) if limit is None else limit
        good: list[NDArray[np.int64]] = []
        wanted, start = limit, 0
        # Decoding happens outside the interpreter's lock, so threads are enough.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while wanted > 0 and start < len(rows):
                chunk = rows[start : start + min(wanted, _CHUNK)]
                start += len(chunk)
                for found in pool.map(self._check, _pieces(chunk)):
                    for row, error in found:
                        self._state[row] = _BAD
                        self.skip(self._records[row], error.reason, str(error))
                fine = chunk[self._state[chunk] != _BAD]
                self._state[fine] = _GOOD
                good.append(fine)
                wanted -= len(fine)
        return np.concatenate(good) if good else rows[:0]

    def looked_at(self) -> NDArray[np.bool_]:
        """Which rows were checked."""
        return self._state != _UNKNOWN

    def unusable(self) -> NDArray[np.bool_]:
        """Which rows were found to be unusable."""
        return self._state == _BAD

    def skip(self, record: ImageRecord, reason: str, detail: str) -> None:
        """List an image that is left out."""
        name = record.uid.removeprefix(record.dataset + "/")
        self.bad.append({"image": name, "reason": reason, "detail": detail, "uid": record.uid})

    def _check(self, rows: NDArray[np.int64]) -> list[tuple[int, ImageError]]:
        found = []
        for row in map(int, rows):
            if self._state[row] != _UNKNOWN:
                continue
            try:
                size = check_image_file(self._records.path(row), self._limits, decode=self._decode)
                if self._check_size is not None:
                    self._check_size(*size)
            except ImageError as error:
                found.append((row, error))
        return found


def _pieces(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _TASK):
        yield rows[start : start + _TASK]
