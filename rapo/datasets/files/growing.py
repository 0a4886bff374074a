"""Growing columns: numbers and strings that are collected batch by batch, each in one piece.

A column takes the bytes of its values and hardly more. Arrow's own pieces keep room for as many
bytes as the text had that they come from, and joining pieces at the end would hold them twice.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray


class GrowingNumbers:
    """Numbers of one type."""

    def __init__(self, kind: DTypeLike) -> None:
        self._kind = kind
        self._bytes = bytearray()

    def extend(self, values: NDArray) -> None:
        """Add numbers."""
        self._bytes += np.asarray(values, self._kind).tobytes()

    def column(self) -> NDArray:
        """All numbers, without a copy. Nothing can be added any more."""
        return np.frombuffer(self._bytes, self._kind)


class GrowingStrings:
    """Strings, none of them null."""

    def __init__(self) -> None:
        self._ends = GrowingNumbers(np.int64)
        self._ends.extend(np.zeros(1, np.int64))
        self._text = bytearray()
        self._count = 0

    def extend(self, values: pa.Array) -> None:
        """Add an array of Arrow's large strings."""
        if not len(values):
            return
        assert values.null_count == 0, "a null is no string"
        _, offsets, text = values.buffers()
        ends = np.frombuffer(offsets, np.int64)[values.offset :][: len(values) + 1]
        self._ends.extend(ends[1:] + (len(self._text) - ends[0]))
        if text is not None:
            self._text += memoryview(text)[ends[0] : ends[-1]]
        self._count += len(values)

    def column(self) -> pa.ChunkedArray:
        """All strings, without a copy. Nothing can be added any more."""
        buffers = [None, pa.py_buffer(self._ends.column()), pa.py_buffer(self._text)]
        return pa.chunked_array([pa.Array.from_buffers(pa.large_string(), self._count, buffers)])
