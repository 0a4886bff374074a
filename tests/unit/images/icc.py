"""ICC profiles of wide gamuts, made from their primaries."""

from __future__ import annotations

import struct

#: Red, green and blue as X, Y, Z, adapted to the white of a profile (D50).
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
BT_2020 = ((0.67348, 0.27904, -0.00193), (0.16568, 0.67534, 0.02998), (0.12505, 0.04561, 0.79686))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def icc_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float = 2.2) -> bytes:
    """A display profile of version 2 with one gamma."""
    tags: list[tuple[bytes, bytes]] = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79),
        (b"cprt", b"text\0\0\0\0none\0\0\0\0"),
        (b"wtpt", _xyz((0.9642, 1.0, 0.82491))),
        *((name, _xyz(one)) for name, one in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)),
        *(
            (name, b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256)))
            for name in (b"rTRC", b"gTRC", b"bTRC")
        ),
    ]
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    whole = start + len(body)
    head = struct.pack(">I4sI4s4s4s", whole, b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ ") + b"\0" * 12 + b"acsp"
    head += b"\0" * 28 + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D) + b"\0" * 48
    return head[:128].ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(one * 65536) for one in value))
