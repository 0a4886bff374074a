"""HeifStructure: how much work a HEIF or AVIF file asks for, told from its tables.

- A coded image has its size in a property (`ispe`). An image may be made of others, as the tiles of
  a grid: what it costs is the sum of all that it is made of, as often as they are named.
- Only the tables are read. A coded image that is larger than its property says is stopped by the
  decoder's own limits of time and memory.
"""

from __future__ import annotations

import struct
from collections import defaultdict

from rapo.config import ImageConfig
from rapo.images.boxes import MAX_BOXES, Box, boxes
from rapo.images.heif_tables import MAX_ITEMS, main_item, meta_tables, number, only, properties, property_links
from rapo.images.refusal import UNKNOWN_WORK, check_pixels, refuse

#: An image and the parts that it is made of, in images of `image.max_pixels`.
MAX_WHOLE_IMAGES = 4


def heif_pixels(data: bytes, limits: ImageConfig) -> int:
    """The pixels that are decoded for the file's main image. Raises `ImageError` for a file that
    would cost too much."""
    parts = meta_tables(data)
    pitm, iprp, iinf, iref = (only(parts, kind) for kind in (b"pitm", b"iprp", b"iinf", b"iref"))
    if pitm is None or iprp is None:
        return UNKNOWN_WORK  # as a sequence without a main image; its decoder has limits
    if iinf is not None and _count(data, iinf) > MAX_ITEMS:
        refuse(f"more than {MAX_ITEMS:,} items")
    sizes = _sizes(data, iprp, limits)
    made_of = _parts(data, iref)
    known: dict[int, int] = {}
    # Of every item, since the main image's transparency may be made of parts as well.
    if any(_total(item, sizes, made_of, known, ()) > MAX_WHOLE_IMAGES * limits.max_pixels for item in made_of):
        refuse(f"parts of more than {MAX_WHOLE_IMAGES} times image.max_pixels together")
    return _total(main_item(data, pitm), sizes, made_of, known, ()) or UNKNOWN_WORK


def _count(data: bytes, box: Box) -> int:
    return number(data, box.start + 4, wide=data[box.start] > 0)


def _sizes(data: bytes, iprp: Box, limits: ImageConfig) -> dict[int, int]:
    """Pixels by item."""
    pixels = [_pixels(data, box, limits) for box in properties(data, iprp)]
    sizes: dict[int, int] = {}
    for item, index in property_links(data, iprp):
        sizes[item] = max(sizes.get(item, 0), pixels[index] if index < len(pixels) else 0)
    return sizes


def _pixels(data: bytes, box: Box | None, limits: ImageConfig) -> int:
    """What a property says of an image's size; 0 if it says nothing."""
    if box is None or box.kind != b"ispe":
        return 0
    width, height = struct.unpack_from(">II", data, box.start + 4)
    check_pixels(width, height, limits)
    return int(width * height)


def _parts(data: bytes, iref: Box | None) -> dict[int, list[int]]:
    """By item, the items that it is made of."""
    made_of: dict[int, list[int]] = defaultdict(list)
    if iref is None:
        return made_of
    wide = data[iref.start] > 0
    width, total = 4 if wide else 2, 0
    for box in boxes(data, iref.start + 4, iref.end):
        if box.kind != b"dimg":
            continue
        count = number(data, box.start + width, wide=False)
        total += count
        if total > 4 * MAX_BOXES:
            refuse("too many references between its items")
        first = box.start + width + 2
        made_of[number(data, box.start, wide=wide)] += (
            number(data, first + place * width, wide=wide) for place in range(count)
        )
    return made_of


def _total(
    item: int, sizes: dict[int, int], made_of: dict[int, list[int]], known: dict[int, int], above: tuple[int, ...]
) -> int:
    """Pixels of an item and all that it is made of, as often as they are named."""
    if item in known:
        return known[item]
    if item in above or len(above) > 8:
        refuse("items that are made of each other")
    pixels = sizes.get(item, 0)
    for part in made_of.get(item, ()):
        pixels += _total(part, sizes, made_of, known, (*above, item))
    known[item] = pixels
    return pixels
