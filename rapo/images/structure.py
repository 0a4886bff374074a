"""Structure checks: refuse small files that would take gigabytes or minutes, before any decoder
runs.

Decoders allocate and loop as a file tells them to, partly while they open its header. The checks
take microseconds on a real image. They count:
- WebP: the size of the canvas, which the decoder allocates when it opens the file;
- PNG: the number of chunks;
- JPEG: the number of segments, and of scans, each of which is a pass over the whole image;
- TIFF: the number of values in its tags (mainly strips), the size of a tile, and the chain of its
  pages;
- frames, in every format that has them, although only the first is decoded.
"""

from __future__ import annotations

import re
import struct

from rapo.config import ImageConfig
from rapo.errors import ImageError

# Real files stay far below: progressive JPEGs have about ten scans, 20 MiB of PNG in chunks of 8
# KiB are 2,560.
MAX_SCANS = 100
MAX_SEGMENTS = 2_000
MAX_CHUNKS = 20_000
MAX_TAG_VALUES = 1 << 20

_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_SOS, _EOI = 0xDA, 0xD9

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TIFF_TEXT = frozenset((1, 2, 6, 7))  # bytes and text stay bytes in memory, whatever their number


def check_structure(data: bytes, limits: ImageConfig) -> None:
    """Raise `ImageError` (too_complex, too_many_frames, too_many_pixels) for a file that would cost
    too much to decode.

    Files that are damaged or of another format pass, because the decoder's own error is clearer.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            _check_jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            _check_png(data, limits)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            _check_webp(data, limits)
        elif data[:2] in (b"II", b"MM"):
            _check_tiff(data, limits)
    except (struct.error, OverflowError):  # it points outside the file, by more than an offset can hold even
        return


def check_frames(frames: int, limits: ImageConfig) -> None:
    if frames > limits.max_frames:
        raise ImageError(
            f"the image has {frames:,} frames or pages; image.max_frames allows {limits.max_frames:,}",
            reason="too_many_frames",
        )


def _refuse(what: str) -> None:
    raise ImageError(f"the image has {what}; save it again with another program", reason="too_complex")


def _check_jpeg(data: bytes) -> None:
    at, scans, segments = 2, 0, 0
    # Between segments lies entropy-coded data, in which an FF is followed by 0 or a restart marker.
    while (found := _MARKER.search(data, at)) is not None:
        at = found.start()
        marker = data[at + 1]
        if marker == _EOI:
            return
        segments += 1
        scans += marker == _SOS
        if scans > MAX_SCANS:
            _refuse(f"more than {MAX_SCANS} scans")
        if segments > MAX_SEGMENTS:
            _refuse(f"more than {MAX_SEGMENTS:,} segments")
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _check_png(data: bytes, limits: ImageConfig) -> None:
    at = 8
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            check_frames(struct.unpack_from(">I", data, at + 8)[0], limits)
        if kind == b"IEND":
            return
        at += 12 + length
    _refuse(f"more than {MAX_CHUNKS:,} chunks")


def _check_webp(data: bytes, limits: ImageConfig) -> None:
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels; image.max_pixels allows {limits.max_pixels:,}",
            reason="too_many_pixels",
        )
    check_frames(data.count(b"ANMF"), limits)


def _check_tiff(data: bytes, limits: ImageConfig) -> None:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]  # BigTIFF
    word, entry, count = ("Q", "HHQQ", "Q") if big else ("I", "HHII", "H")
    offset = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    for page in range(limits.max_frames + 1):
        if not offset:
            return
        entries = struct.unpack_from(order + count, data, offset)[0]
        first = offset + struct.calcsize(count)
        size = struct.calcsize("<" + entry)
        if page == 0:
            last = min(entries, (len(data) - first) // size)
            _check_tags(
                [struct.unpack_from(order + entry, data, first + i * size) for i in range(last)], order, big, limits
            )
        offset = struct.unpack_from(order + word, data, first + entries * size)[0]
    check_frames(limits.max_frames + 1, limits)


def _check_tags(tags: list[tuple[int, int, int, int]], order: str, big: bool, limits: ImageConfig) -> None:
    values = sum(count for _, kind, count, _ in tags if kind not in _TIFF_TEXT)
    if values > MAX_TAG_VALUES:
        _refuse(f"{values:,} values in its tags")
    sides = {
        tag: _inline(kind, value, order, big) for tag, kind, _, value in tags if tag in (_TILE_WIDTH, _TILE_LENGTH)
    }
    if len(sides) == 2 and sides[_TILE_WIDTH] * sides[_TILE_LENGTH] > limits.max_pixels:
        _refuse("tiles larger than any image may be")


def _inline(kind: int, value: int, order: str, big: bool) -> int:
    """The number in an entry's value field, which was read as one integer and holds it
    left-aligned."""
    width = {3: 2, 4: 4, 16: 8}.get(kind, 8 if big else 4)
    field = struct.pack(order + ("Q" if big else "I"), value)
    return int.from_bytes(field[:width], "little" if order == "<" else "big")
