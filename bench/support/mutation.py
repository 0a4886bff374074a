"""Mutation: changes of encoded images and of protobuf messages that keep their structure.

A byte that is changed anywhere mostly ends at a checksum or a length. Here a file is taken apart
into its segments, those are repeated, removed, exchanged, resized or changed, and what holds them
together (lengths, checksums) is made right again, mostly.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

#: Numbers at the ends of what fields hold.
_EDGES = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

Parts = list[bytes]


def mutate(data: bytes, rng: Random) -> bytes:
    """The image with one to four changes of its structure; of an unknown format, of its bytes."""
    for magic, change in _FORMATS.items():
        if data.startswith(magic):
            try:
                return change(data, rng)
            except (struct.error, IndexError, ValueError):  # damaged by a mutation before
                break
    return changed_bytes(data, rng)


def changed_bytes(data: bytes, rng: Random) -> bytes:
    """The data with a few bytes changed, mostly near its beginning."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(len(changed), rng.choice((16, 64, 10**9))))] = rng.randrange(256)
    return bytes(changed)


def mutate_message(data: bytes, rng: Random) -> bytes:
    """A protobuf message with changed fields: repeated, removed, exchanged, of other numbers and
    kinds, of other lengths."""
    parts = _fields(data)
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(4)
        if kind == 0:
            _shuffle(parts, rng)
        elif kind == 1:  # a number, in a field that may be of another kind or not in the schema
            field = _varint(rng.choice((1, 2, 8, 13, 17, 1 << 28)) << 3)
            parts.insert(rng.randint(0, len(parts)), field + _varint(rng.choice(_EDGES)))
        elif kind == 2:
            body = rng.randbytes(rng.choice((0, 3, 40)))
            length = len(body) if rng.random() < 0.7 else rng.choice(_EDGES)
            parts.append(_varint(rng.randint(1, 12) << 3 | 2) + _varint(length) + body)
        else:
            at = rng.randrange(len(parts) + 1)
            parts[at : at + 1] = [changed_bytes(b"".join(parts[at : at + 1]), rng)]
    return b"".join(parts)


def _shuffle(parts: Parts, rng: Random) -> None:
    """Repeat, remove, exchange or empty parts."""
    if not parts:
        return
    at, kind = rng.randrange(len(parts)), rng.randrange(4)
    if kind == 0:
        parts[at:at] = [parts[at]] * rng.choice((1, 2, 20, 120))
    elif kind == 1:
        del parts[at]
    elif kind == 2:
        other = rng.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    else:
        parts[at] = parts[at][: rng.randrange(len(parts[at]) + 1)]


def _change(parts: Parts, rng: Random) -> None:
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.4 or not parts:
            _shuffle(parts, rng)
        else:
            at = rng.randrange(len(parts))
            parts[at] = _changed_field(parts[at], rng) if rng.random() < 0.6 else changed_bytes(parts[at], rng)


def _changed_field(part: bytes, rng: Random) -> bytes:
    """The part with one number in it at an end of its range."""
    layout = rng.choice((">B", ">H", "<H", ">I", "<I"))
    size = struct.calcsize(layout)
    if len(part) < size:
        return part
    at = rng.randrange(min(len(part) - size + 1, 64))
    value = rng.choice(_EDGES) & (1 << 8 * size) - 1
    return part[:at] + struct.pack(layout, value) + part[at + size :]


def _png(data: bytes, rng: Random) -> bytes:
    parts, at = Parts(), 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        parts.append(data[at + 4 : at + 8 + length])  # kind and body
        at += 12 + length
    _change(parts, rng)
    return data[:8] + b"".join(_png_chunk(part, rng) for part in parts)


def _png_chunk(part: bytes, rng: Random) -> bytes:
    if part[:4] == b"IDAT" and rng.random() < 0.2:  # other pixels, well packed
        part = b"IDAT" + zlib.compress(rng.randbytes(rng.choice((0, 100, 100_000))))
    length = max(len(part) - 4, 0) if rng.random() < 0.97 else rng.choice(_EDGES)
    checksum = zlib.crc32(part) if rng.random() < 0.97 else 0
    return struct.pack(">I", length) + part + struct.pack(">I", checksum)


def _jpeg(data: bytes, rng: Random) -> bytes:
    parts, at = Parts(), 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xD9, 0xDA):
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        parts.append(data[at + 1 : at + 2] + data[at + 4 : end])  # marker and body
        at = end
    rest = data[at:]
    scans = [b"\xff\xda" + scan for scan in rest.split(b"\xff\xda")[1:]]
    if rng.random() < 0.5 and scans:
        _shuffle(scans, rng)
    _change(parts, rng)
    head = b"".join(b"\xff" + part[:1] + struct.pack(">H", min(len(part) + 1, 65535)) + part[1:] for part in parts)
    return data[:2] + head + b"".join(scans)


def _webp(data: bytes, rng: Random) -> bytes:
    parts, at = Parts(), 12
    while at + 8 <= len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        parts.append(data[at : at + 4] + data[at + 8 : at + 8 + length])  # kind and body
        at += 8 + length + length % 2
    _change(parts, rng)
    body = b"".join(
        part[:4] + struct.pack("<I", max(len(part) - 4, 0)) + part[4:] + bytes(len(part) % 2) for part in parts
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _bmp(data: bytes, rng: Random) -> bytes:
    pixels = struct.unpack_from("<I", data, 10)[0]
    parts = [data[14:pixels], data[pixels:]]
    _change(parts, rng)
    body = b"".join(parts)
    return data[:10] + struct.pack("<I", 14 + len(parts[0]) if parts else 14) + body


def _tiff(data: bytes, rng: Random) -> bytes:
    """The first directory, changed, goes behind everything else."""
    order = "<" if data[:2] == b"II" else ">"
    offset = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, offset)[0]
    end = offset + 2 + 12 * count
    parts = [data[at : at + 12] for at in range(offset + 2, end, 12)]
    _change(parts, rng)
    parts = [part.ljust(12, b"\0")[:12] for part in parts][:60_000]
    tail = struct.pack(order + "H", len(parts)) + b"".join(parts) + data[end : end + 4]
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + tail


def _fields(data: bytes) -> Parts:
    """The fields of a message, each with its tag. What is no message is one field."""
    parts, at = Parts(), 0
    while at < len(data):
        start = at
        tag, at = _number(data, at)
        if tag & 7 == 0:
            _, at = _number(data, at)
        elif tag & 7 == 2:
            length, at = _number(data, at)
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            return [data]
        parts.append(data[start:at])
    return parts


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


_FORMATS: dict[bytes, Callable[[bytes, Random], bytes]] = {
    b"\xff\xd8": _jpeg, b"\x89PNG": _png, b"RIFF": _webp, b"BM": _bmp, b"II*": _tiff, b"MM\0*": _tiff,
}  # fmt: skip
