"""Structure checks: refuse small files that would take gigabytes or minutes, before any decoder
runs, and say how much work the others are.

Decoders allocate and loop as a file tells them to, partly while they open its header. The checks
take microseconds on a real image. They count:
- WebP: the size of the canvas, which the decoder allocates when it opens the file;
- PNG: the number of chunks, and of those that are unpacked besides the pixels;
- JPEG: the number of segments, of scans, and scans times pixels: each scan is a pass over the whole
  image;
- BMP: the bytes of run-length code, which Pillow decodes in Python, byte for byte;
- TIFF: the number of values in its tags, the size of a tile, the scans of the JPEGs in it, and the
  chain of its pages;
- GIF: its blocks, and the canvas that its first frame asks for;
- HEIF and AVIF: the items that the image is made of, and their pixels;
- JPEG 2000: tiles, precincts, code-blocks and layers;
- frames, in every format that has them, although only the first is decoded.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from rapo.config import ImageConfig
from rapo.images import structure_gif, structure_heif, structure_jpeg2000
from rapo.images.heif_tables import is_heif
from rapo.images.refusal import UNKNOWN_WORK, check_frames, check_pixels, refuse

# Real files stay far below: progressive JPEGs have about ten scans, 20 MiB of PNG in chunks of 8
# KiB are 2,560.
MAX_SCANS = 100
MAX_SEGMENTS = 2_000
MAX_CHUNKS = 20_000
MAX_TAG_VALUES = 1 << 20
# Each may unpack to a megabyte. Real files have one profile and a few texts.
MAX_PACKED_CHUNKS = 64
# Scans times pixels, in images of `image.max_pixels`. libjpeg writes 10 scans for colour, 18 for
# CMYK.
MAX_FULL_SCANS = 20
# Pillow takes a second for so much.
MAX_RUN_LENGTH_BYTES = 4 * 2**20

#: Work is counted in pixels of a baseline JPEG, which take some 10 ns each. The others take about
#: so many times more, measured on noise.
_WORK_PER_PIXEL = 4
_SCANS_PER_PIXEL_WORK = 8  # a scan of a progressive JPEG costs an eighth of a baseline's pixel
_RUN_LENGTH_WORK = 25  # per byte
_HEIF_WORK = 10
_JPEG2000_WORK = 12  # per pixel of a component

_PACKED = frozenset((b"iCCP", b"zTXt", b"iTXt"))
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_SOS, _EOI = 0xDA, 0xD9
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_BMP_HEADER, _BMP_CORE = 40, 12
_BMP_RUN_LENGTH = (1, 2)

_WIDTH, _LENGTH, _COMPRESSION = 256, 257, 259
_STRIP_BYTES, _TILE_BYTES = 279, 325
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TIFF_JPEG = (6, 7)
_TIFF_SIZES = {3: "H", 4: "I", 16: "Q"}
_TIFF_TEXT = frozenset((1, 2, 6, 7))  # bytes and text stay bytes in memory, whatever their number


def check_structure(data: bytes, limits: ImageConfig) -> int:
    """An upper estimate of the work of decoding, in pixels of a baseline JPEG (some 10 ns each).

    Raises `ImageError` (too_complex, too_many_frames, too_many_pixels) for a file that would cost
    too much to decode. Files that are damaged or of another format pass, because the decoder's own
    error is clearer. A damaged one is `UNKNOWN_WORK`, one of another format none.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _check_jpeg(data, limits)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _check_png(data, limits)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _check_webp(data, limits)
        if data[:2] == b"BM":
            return _check_bmp(data)
        if data[:2] in (b"II", b"MM"):
            return _check_tiff(data, limits)
        if data.startswith(structure_gif.SIGNATURES):
            return _WORK_PER_PIXEL * structure_gif.gif_pixels(data, limits)
        if is_heif(data):
            return _HEIF_WORK * structure_heif.heif_pixels(data, limits)
        if data.startswith((structure_jpeg2000.SIGNATURE, structure_jpeg2000.CODESTREAM)):
            return _JPEG2000_WORK * structure_jpeg2000.jpeg2000_pixels(data, limits)
    except (struct.error, OverflowError, IndexError):  # cut off, or a place that no file has
        return UNKNOWN_WORK
    return 0


def _check_jpeg(data: bytes, limits: ImageConfig) -> int:
    at, scans, segments, pixels = 2, 0, 0, 0
    # Between segments lies entropy-coded data, in which an FF is followed by 0 or a restart marker.
    while (found := _MARKER.search(data, at)) is not None:
        at = found.start()
        marker = data[at + 1]
        if marker == _EOI:
            break
        segments += 1
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            pixels = max(pixels, width * height)
        if marker == _SOS:
            scans += 1
            _check_scans(scans, scans * pixels, limits)
        if segments > MAX_SEGMENTS:
            refuse(f"more than {MAX_SEGMENTS:,} segments")
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return pixels + pixels * scans // _SCANS_PER_PIXEL_WORK or UNKNOWN_WORK


def _check_scans(scans: int, pixels: int, limits: ImageConfig) -> None:
    """Refuse too many scans; `pixels` is what all of them together pass over."""
    if scans > MAX_SCANS:
        refuse(f"more than {MAX_SCANS} scans")
    if pixels > MAX_FULL_SCANS * limits.max_pixels:
        refuse(f"scans of more than {MAX_FULL_SCANS} times image.max_pixels together")


def _check_png(data: bytes, limits: ImageConfig) -> int:
    at, packed = 8, 0
    width, height = struct.unpack_from(">II", data, 16)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            return _WORK_PER_PIXEL * width * height  # the decoder finds out whether that matters
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            check_frames(struct.unpack_from(">I", data, at + 8)[0], limits)
        packed += kind in _PACKED
        if packed > MAX_PACKED_CHUNKS:
            refuse(f"more than {MAX_PACKED_CHUNKS} packed texts and profiles")
        if kind == b"IEND":
            return _WORK_PER_PIXEL * width * height
        at += 12 + length
    refuse(f"more than {MAX_CHUNKS:,} chunks")
    return UNKNOWN_WORK


def _check_webp(data: bytes, limits: ImageConfig) -> int:
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
        return UNKNOWN_WORK
    check_pixels(width, height, limits)
    check_frames(data.count(b"ANMF"), limits)
    return _WORK_PER_PIXEL * width * height


def _check_bmp(data: bytes) -> int:
    pixels_at, header = struct.unpack_from("<II", data, 10)
    if header == _BMP_CORE:
        width, height = struct.unpack_from("<HH", data, 18)
        return width * height
    width, height, compression = struct.unpack_from("<ii4xI", data, 18)
    work = abs(width * height)
    if header < _BMP_HEADER or compression not in _BMP_RUN_LENGTH:
        return work
    code = max(len(data) - pixels_at, 0)
    if code > MAX_RUN_LENGTH_BYTES:
        refuse(f"{code:,} bytes of run-length code")
    # Pillow pads short rows and unpacks 4-bit runs pixel by pixel.
    return work * _RUN_LENGTH_WORK // 2 + code * _RUN_LENGTH_WORK


@dataclass(frozen=True, slots=True)
class _Tag:
    """An entry of a TIFF directory. `field` is its value, or where its values lie."""

    kind: int
    count: int
    field: bytes


def _check_tiff(data: bytes, limits: ImageConfig) -> int:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]  # BigTIFF
    word, entry, count = ("Q", "HHQ8s", "Q") if big else ("I", "HHI4s", "H")
    offset = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    work = UNKNOWN_WORK
    for page in range(limits.max_frames + 1):
        if not offset:
            return work
        entries = struct.unpack_from(order + count, data, offset)[0]
        first = offset + struct.calcsize(count)
        size = struct.calcsize("<" + entry)
        if page == 0:
            last = min(entries, (len(data) - first) // size)
            found = (struct.unpack_from(order + entry, data, first + i * size) for i in range(last))
            work = _check_tags(data, [(tag, _Tag(*rest)) for tag, *rest in found], order, limits)
        if first + entries * size >= len(data):
            return work
        offset = struct.unpack_from(order + word, data, first + entries * size)[0]
    check_frames(limits.max_frames + 1, limits)
    return work


def _check_tags(data: bytes, entries: list[tuple[int, _Tag]], order: str, limits: ImageConfig) -> int:
    values = sum(tag.count for _, tag in entries if tag.kind not in _TIFF_TEXT)
    if values > MAX_TAG_VALUES:
        refuse(f"{values:,} values in its tags")
    tags = dict(reversed(entries))  # of two entries for one tag the first counts

    def number(tag: int) -> int:
        return _number(data, tags[tag], order) if tag in tags else 0

    tile = number(_TILE_WIDTH) * number(_TILE_LENGTH)
    if tile > limits.max_pixels:
        refuse("tiles larger than any image may be")
    pixels = number(_WIDTH) * number(_LENGTH)
    work = _WORK_PER_PIXEL * pixels or UNKNOWN_WORK
    if number(_COMPRESSION) in _TIFF_JPEG:
        # In the coded data of a JPEG an FF is never followed by a marker's number.
        scans = data.count(bytes((0xFF, _SOS)))
        parts = max(sum(tags[tag].count for tag in (_STRIP_BYTES, _TILE_BYTES) if tag in tags), 1)
        per_part = max(tile, pixels // parts)
        _check_scans(scans // parts, scans * per_part, limits)
        work += scans * per_part // _SCANS_PER_PIXEL_WORK
    return work


def _number(data: bytes, tag: _Tag, order: str) -> int:
    """The first number of an entry, from its own field if all fit there, else from where it
    points. 0 for an entry without numbers."""
    letter = _TIFF_SIZES.get(tag.kind)
    if letter is None or not tag.count:
        return 0
    layout = order + letter
    if tag.count * struct.calcsize(layout) <= len(tag.field):
        return int(struct.unpack_from(layout, tag.field)[0])
    at = int.from_bytes(tag.field, "little" if order == "<" else "big")
    return int(struct.unpack_from(layout, data, at)[0])
