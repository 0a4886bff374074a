"""HeifStructure: how much work a HEIF or AVIF file asks for, told from its tables.

- A coded image has its size in a property (`ispe`). An image may be made of others, as the tiles of
  a grid: what it costs is the sum of all that it is made of, as often as they are named.
- Decoders differ in which of two tables they take, and some take the tables in any order. So a
  second one is refused, and the order does not matter.
- Only the tables are read. A coded image that is larger than its property says is stopped by the
  decoder's own limits of time and memory.
"""

from __future__ import annotations

import struct
from collections import defaultdict

from rapo.config import ImageConfig
from rapo.images.boxes import MAX_BOXES, Box, boxes
from rapo.images.refusal import UNKNOWN_WORK, check_pixels, refuse

#: By major or compatible brand.
BRANDS = frozenset({
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"avif", b"avis"),
})  # fmt: skip

#: A phone's image of 48 megapixels has some 200 tiles, as many of its gain map, and a few more.
MAX_ITEMS = 4_000
#: An image and the parts that it is made of, in images of `image.max_pixels`.
MAX_WHOLE_IMAGES = 4
#: One for each of its two versions and two widths of an index.
_IPMA_KINDS = 4


def is_heif(data: bytes) -> bool:
    """Whether the file says that it is HEIF or AVIF."""
    if data[4:8] != b"ftyp":
        return False
    end = min(struct.unpack_from(">I", data)[0], 256, len(data))
    return any(data[at : at + 4] in BRANDS for at in (8, *range(16, end, 4)))


def heif_pixels(data: bytes, limits: ImageConfig) -> int:
    """The pixels that are decoded for the file's main image. Raises `ImageError` for a file that
    would cost too much."""
    meta = _one(_by_kind(data, 0, len(data)), b"meta")
    if meta is None:
        return UNKNOWN_WORK  # a sequence without a main image; its decoder has limits
    parts = _by_kind(data, meta.start + 4, meta.end)
    pitm, iprp, iinf, iref = (_one(parts, kind) for kind in (b"pitm", b"iprp", b"iinf", b"iref"))
    if pitm is None or iprp is None:
        return UNKNOWN_WORK
    if iinf is not None and _count(data, iinf) > MAX_ITEMS:
        refuse(f"more than {MAX_ITEMS:,} items")
    sizes = _sizes(data, iprp, limits)
    made_of = _parts(data, iref)
    known: dict[int, int] = {}
    # Of every item, since the main image's transparency may be made of parts as well.
    if any(_total(item, sizes, made_of, known, ()) > MAX_WHOLE_IMAGES * limits.max_pixels for item in made_of):
        refuse(f"parts of more than {MAX_WHOLE_IMAGES} times image.max_pixels together")
    main = _number(data, pitm.start + 4, wide=data[pitm.start] > 0)
    return _total(main, sizes, made_of, known, ()) or UNKNOWN_WORK


def _by_kind(data: bytes, start: int, end: int) -> dict[bytes, list[Box]]:
    found = defaultdict(list)
    for box in boxes(data, start, end):
        found[box.kind].append(box)
    return found


def _one(found: dict[bytes, list[Box]], kind: bytes) -> Box | None:
    """The only box of a kind, if there is one. Raises `ImageError` for several."""
    several = found.get(kind, [])
    if len(several) > 1:
        refuse(f"several tables {kind.decode()}")
    return several[0] if several else None


def _number(data: bytes, at: int, *, wide: bool) -> int:
    return int(struct.unpack_from(">I" if wide else ">H", data, at)[0])


def _count(data: bytes, box: Box) -> int:
    return _number(data, box.start + 4, wide=data[box.start] > 0)


def _sizes(data: bytes, iprp: Box, limits: ImageConfig) -> dict[int, int]:
    """Pixels by item."""
    parts = _by_kind(data, iprp.start, iprp.end)
    properties: list[int | None] = [None]  # they count from 1
    if (ipco := _one(parts, b"ipco")) is not None:
        for box in boxes(data, ipco.start, ipco.end):
            pixels = None
            if box.kind == b"ispe":
                width, height = struct.unpack_from(">II", data, box.start + 4)
                check_pixels(width, height, limits)
                pixels = width * height
            properties.append(pixels)
    sizes: dict[int, int] = {}
    tables = parts.get(b"ipma", [])
    if len(tables) > _IPMA_KINDS:
        refuse("too many tables ipma")
    for table in tables:
        _associate(data, table, properties, sizes)
    return sizes


def _associate(data: bytes, ipma: Box, properties: list[int | None], sizes: dict[int, int]) -> None:
    version, flags = data[ipma.start], data[ipma.start + 3]
    count = _number(data, ipma.start + 4, wide=True)
    if count > MAX_ITEMS:
        refuse(f"more than {MAX_ITEMS:,} items")
    at, total = ipma.start + 8, 0
    for _ in range(count):
        item = _number(data, at, wide=version > 0)
        at += 4 if version else 2
        links = data[at]
        at += 1
        total += links
        if total > 4 * MAX_BOXES:
            refuse("too many properties of its items")
        for _ in range(links):
            index = _number(data, at, wide=False) & 0x7FFF if flags & 1 else data[at] & 0x7F
            at += 2 if flags & 1 else 1
            pixels = properties[index] if index < len(properties) else None
            sizes[item] = max(sizes.get(item, 0), pixels or 0)


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
        count = _number(data, box.start + width, wide=False)
        total += count
        if total > 4 * MAX_BOXES:
            refuse("too many references between its items")
        first = box.start + width + 2
        made_of[_number(data, box.start, wide=wide)] += (
            _number(data, first + place * width, wide=wide) for place in range(count)
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
