"""GifStructure: how much work a GIF asks for, told by going from block to block."""

from __future__ import annotations

import struct

from rapo.config import ImageConfig
from rapo.images.refusal import UNKNOWN_WORK, check_frames, check_pixels, refuse

SIGNATURES = (b"GIF87a", b"GIF89a")

#: Writers fill blocks up to 255 bytes: 20 MiB are 80,000 of them.
MAX_BLOCKS = 200_000

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B


def gif_pixels(data: bytes, limits: ImageConfig) -> int:
    """The pixels of the canvas that the first frame needs. Raises `ImageError` for a file that
    would cost too much."""
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table(packed)
    frames = blocks = 0
    while at < len(data):
        blocks += 1
        if blocks > MAX_BLOCKS:
            refuse(f"more than {MAX_BLOCKS:,} blocks")
        kind = data[at]
        if kind == _IMAGE:
            frames += 1
            check_frames(frames, limits)
            left, top, wide, high, packed = struct.unpack_from("<HHHHB", data, at + 1)
            if frames == 1:
                width, height = max(width, left + wide), max(height, top + high)
                check_pixels(width, height, limits)
            at += 11 + _table(packed)  # with the size of its codes
        elif kind == _EXTENSION:
            at += 2
        elif kind == _END or frames:
            break
        else:  # on the way to the first frame the decoder passes over what it does not know
            at += 1
            continue
        while at < len(data) and data[at] and blocks <= MAX_BLOCKS:
            at += 1 + data[at]
            blocks += 1
        at += 1
    return width * height or UNKNOWN_WORK


def _table(packed: int) -> int:
    """Bytes of the table of colours that follows."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0
