"""Boxes: the parts of an ISO base media file (HEIF, AVIF, JPEG 2000)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from rapo.images.refusal import refuse

#: Real files have some ten boxes at a level, and an entry of a table for each tile of the image.
MAX_BOXES = 5_000


@dataclass(frozen=True, slots=True)
class Box:
    """A box: its kind, and where its content lies in the file."""

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes between two places of a file; one that would be longer ends there. Raises
    `ImageError` for more than `MAX_BOXES`."""
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        stop = end if size == 0 else min(start + size, end)
        if stop < start + head:
            return  # the decoder finds out whether that matters
        yield Box(kind, start + head, stop)
        start = stop
    refuse(f"more than {MAX_BOXES:,} boxes")
