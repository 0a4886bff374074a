"""Jpeg2000Structure: how much work a JPEG 2000 file asks for, told from its headers.

- A decoder makes a record for every tile, precinct and code-block before it decodes a pixel, and
  room for every layer of every precinct. Small files may ask for billions of them.
- Tiles may have settings of their own. The worst of all settings counts for the whole image.
- Markers are followed as OpenJPEG follows them: one that it does not know has no length, and a part
  of a tile may be empty.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rapo.config import ImageConfig
from rapo.images.boxes import boxes
from rapo.images.refusal import UNKNOWN_WORK, check_pixels, refuse

SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"

#: Four channels are the most that an image has here.
MAX_COMPONENTS = 4
#: 50 megapixels in tiles of 256 x 256 and three components are 2,300.
MAX_TILES = 4_096
MAX_TILE_PARTS = 16_384
#: 50 megapixels in blocks of 32 x 32 and three components are 150,000.
MAX_BLOCKS = 500_000
#: Layers times precincts. Real files have up to some 20 layers.
MAX_PACKETS = 2_000_000
_MAX_MARKERS = 1_000

_COD, _COC, _SOT, _SOD, _EOC = 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
#: Markers with a length: those of ISO 15444-1, and of part 2 those that OpenJPEG knows.
_SEGMENTS = frozenset({
    *(0xFF50, 0xFF51, _COD, _COC, 0xFF55, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61),
    *(0xFF63, 0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78, _SOT, 0xFF91),
})  # fmt: skip
_WHOLE = 15  # the exponent of a precinct that is as large as any image


@dataclass(slots=True)
class _Worst:
    """The settings that make the most parts: sides as powers of two."""

    levels: int = 0
    layers: int = 1
    block: int = 12
    precinct: int = _WHOLE

    def take(self, style: int, layers: int, levels: int, block: bytes, precincts: bytes) -> None:
        """Take in the settings of a COD or COC marker."""
        self.levels = max(self.levels, levels)
        self.layers = max(self.layers, layers)
        self.block = min(self.block, (block[0] & 0xF) + 2, (block[1] & 0xF) + 2)
        if style & 1:
            sides = (side for pair in precincts[: levels + 1] for side in (pair & 0xF, pair >> 4))
            self.precinct = min((self.precinct, *sides))


def jpeg2000_pixels(data: bytes, limits: ImageConfig) -> int:
    """Pixels times components. Raises `ImageError` for a file that would cost too much."""
    at = 0
    if data.startswith(SIGNATURE):
        found = next((box for box in boxes(data, 0, len(data)) if box.kind == b"jp2c"), None)
        if found is None:
            return UNKNOWN_WORK
        at = found.start
    if data[at : at + 4] != CODESTREAM:
        return UNKNOWN_WORK
    right, bottom, left, top, *tile, components = struct.unpack_from(">8IH", data, at + 8)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0 or not tile[0] or not tile[1]:
        return UNKNOWN_WORK
    check_pixels(width, height, limits)
    if components > MAX_COMPONENTS:
        refuse(f"{components:,} components")
    tiles = -(-(right - tile[2]) // tile[0]) * -(-(bottom - tile[3]) // tile[1])
    if tiles * components > MAX_TILES:
        refuse(f"{tiles:,} tiles")
    worst = _settings(data, at + 2)
    # A level has a quarter of the pixels of the one before it; each tile and level has at least one
    # precinct, and each of its three bands a block.
    parts = components * (4 * tiles * (worst.levels + 1) + width * height * 4 // 3)
    least = components * tiles * (worst.levels + 1)
    blocks = least * 3 + _pieces(parts, worst.block) + _pieces(parts, worst.precinct)
    precincts = least + _pieces(parts, worst.precinct)
    if blocks > MAX_BLOCKS:
        refuse(f"{blocks:,} code-blocks and precincts")
    if precincts * worst.layers > MAX_PACKETS:
        refuse(f"{precincts * worst.layers:,} packets")
    return width * height * components


def _pieces(pixels: int, exponent: int) -> int:
    return pixels >> 2 * exponent


def _settings(data: bytes, at: int) -> _Worst:
    """The settings of the main header and of all tiles; `at` is the first marker."""
    worst = _Worst()
    tile_parts, markers, next_part = 0, 0, 0
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        markers += 1
        if markers > _MAX_MARKERS + 20 * MAX_TILES:
            refuse("too many markers")
        if marker == _SOT:
            tile_parts += 1
            if tile_parts > MAX_TILE_PARTS:
                refuse(f"more than {MAX_TILE_PARTS:,} parts of tiles")
            size = struct.unpack_from(">I", data, at + 6)[0]
            next_part = at + size if size else len(data)
        elif marker == _EOC:
            return worst
        elif marker == _SOD:
            at = max(next_part, at + 2)
            continue
        elif marker not in _SEGMENTS:
            at += 2
            continue
        elif marker == _COD:
            style, layers, levels = data[at + 4], *struct.unpack_from(">xHxB", data, at + 5)
            worst.take(style, layers, levels, data[at + 10 : at + 12], data[at + 14 : at + 2 + length])
        elif marker == _COC:
            style, levels = data[at + 5], data[at + 6]
            worst.take(style, 1, levels, data[at + 7 : at + 9], data[at + 11 : at + 2 + length])
        at += 2 + max(length, 2)
    return worst
