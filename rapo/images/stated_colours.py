"""StatedColours: what an image without a profile says of its colours, by the numbers of H.273.

- HEIF and AVIF state them in a property of the main image (`colr` of type `nclx`), PNG in a chunk
  (`cICP`). What a gain map or another image of the file states does not count.
- Damage is no statement: the decoder finds out whether it matters.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rapo.errors import ImageError
from rapo.images.heif_tables import is_heif, main_item, meta_tables, only, properties, property_links

_PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks that a PNG may have before its pixels, until the search is given up.
_CHUNKS = 1_000


@dataclass(frozen=True, slots=True)
class StatedColours:
    """Numbers of ITU-T H.273 (coding-independent code points): tables 2 and 3."""

    primaries: int
    transfer: int


def stated_colours(data: bytes) -> StatedColours | None:
    """What the encoded image states, if it does."""
    try:
        if data.startswith(_PNG):
            return _of_png(data)
        return _of_heif(data) if is_heif(data) else None
    except (struct.error, IndexError, ImageError):
        return None


def _of_png(data: bytes) -> StatedColours | None:
    at = len(_PNG)
    for _ in range(_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"cICP":
            return StatedColours(*struct.unpack_from(">BB", data, at + 8))
        if kind == b"IDAT":
            break
        at += 12 + length
    return None


def _of_heif(data: bytes) -> StatedColours | None:
    tables = meta_tables(data)
    pitm, iprp = only(tables, b"pitm"), only(tables, b"iprp")
    if pitm is None or iprp is None:
        return None
    main, found = main_item(data, pitm), properties(data, iprp)
    for item, index in property_links(data, iprp):
        box = found[index]
        if item == main and box is not None and box.kind == b"colr" and data[box.start : box.start + 4] == b"nclx":
            return StatedColours(*struct.unpack_from(">HH", data, box.start + 4))
    return None
