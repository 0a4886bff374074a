"""HeifTables: the tables of a HEIF or AVIF file, read as far as a check or a colour needs them.

- Decoders differ in which of two tables they take, and some take the tables in any order. So a
  second one is refused, and the order does not matter.
- What is not there is None or empty: the decoder finds out whether that matters.
- A table that is cut off raises `struct.error` or `IndexError`.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator

from rapo.images.boxes import MAX_BOXES, Box, boxes
from rapo.images.refusal import refuse

#: By major or compatible brand.
BRANDS = frozenset({
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"avif", b"avis"),
})  # fmt: skip

#: A phone's image of 48 megapixels has some 200 tiles, as many of its gain map, and a few more.
MAX_ITEMS = 4_000
#: One for each of its two versions and two widths of an index.
_IPMA_KINDS = 4


def is_heif(data: bytes) -> bool:
    """Whether the file says that it is HEIF or AVIF."""
    if data[4:8] != b"ftyp":
        return False
    end = min(struct.unpack_from(">I", data)[0], 256, len(data))
    return any(data[at : at + 4] in BRANDS for at in (8, *range(16, end, 4)))


def meta_tables(data: bytes) -> dict[bytes, list[Box]]:
    """The tables about still images, by kind; none of a sequence without a main image."""
    meta = only(by_kind(data, 0, len(data)), b"meta")
    return {} if meta is None else by_kind(data, meta.start + 4, meta.end)


def by_kind(data: bytes, start: int, end: int) -> dict[bytes, list[Box]]:
    """The boxes between two places of a file."""
    found = defaultdict(list)
    for box in boxes(data, start, end):
        found[box.kind].append(box)
    return found


def only(found: dict[bytes, list[Box]], kind: bytes) -> Box | None:
    """The only box of a kind, if there is one. Raises `ImageError` for several."""
    several = found.get(kind, [])
    if len(several) > 1:
        refuse(f"several tables {kind.decode()}")
    return several[0] if several else None


def number(data: bytes, at: int, *, wide: bool) -> int:
    """A number of two bytes, or of four."""
    return int(struct.unpack_from(">I" if wide else ">H", data, at)[0])


def main_item(data: bytes, pitm: Box) -> int:
    """The number of the main image."""
    return number(data, pitm.start + 4, wide=data[pitm.start] > 0)


def properties(data: bytes, iprp: Box) -> list[Box | None]:
    """All properties of the file. They count from 1."""
    ipco = only(by_kind(data, iprp.start, iprp.end), b"ipco")
    return [None, *(boxes(data, ipco.start, ipco.end) if ipco is not None else ())]


def property_links(data: bytes, iprp: Box) -> Iterator[tuple[int, int]]:
    """Items, and the index of each of their properties."""
    tables = by_kind(data, iprp.start, iprp.end).get(b"ipma", [])
    if len(tables) > _IPMA_KINDS:
        refuse("too many tables ipma")
    for table in tables:
        yield from _links(data, table)


def _links(data: bytes, ipma: Box) -> Iterator[tuple[int, int]]:
    version, flags = data[ipma.start], data[ipma.start + 3]
    count = number(data, ipma.start + 4, wide=True)
    if count > MAX_ITEMS:
        refuse(f"more than {MAX_ITEMS:,} items")
    at, total = ipma.start + 8, 0
    for _ in range(count):
        item = number(data, at, wide=version > 0)
        at += 4 if version else 2
        links = data[at]
        at += 1
        total += links
        if total > 4 * MAX_BOXES:
            refuse("too many properties of its items")
        for _ in range(links):
            yield item, number(data, at, wide=False) & 0x7FFF if flags & 1 else data[at] & 0x7F
            at += 2 if flags & 1 else 1
