"""AttackImages: small files that cost a decoder far more than they cost their sender.

- Each is built here, a function of nothing.
- Some are refused by their structure. The others are as dear as an accepted image can be made.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

# Just below the default `image.max_pixels`.
_SIDE = 7070


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _flat(mode: str = "RGB", side: int = _SIDE) -> Image.Image:
    return Image.new(mode, (side, side), 77)


def _noise(width: int, height: int, mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def _heif(image: Image.Image) -> bytes:
    """The image as HEIC."""
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=20)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_profiles() -> bytes:
    """A PNG of 15,000 colour profiles, each of which unpacks to a megabyte."""
    clean = _encoded(Image.new("RGB", (84, 84)), "PNG")
    return clean[:33] + _chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) * 15_000 + clean[33:]


def _bmp_runs(code: int) -> bytes:
    """A run-length BMP in which each pixel is a run of its own, of so many bytes of code."""
    side = 3000
    head = b"BM" + struct.pack("<IHHI", 1078 + code, 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, code, 0, 0, 256, 0)
    return head + info + bytes(1024) + b"\x01\x05" * (code // 2)


def _jpeg_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose last scan is repeated."""
    clean = _encoded(_flat("L", side), "JPEG", progressive=True, quality=50)
    last = clean[clean.rindex(b"\xff\xda") : -2]
    return clean[:-2] + last * (scans - clean.count(b"\xff\xda")) + b"\xff\xd9"


def _tiff(tags: list[tuple[int, int, int, int]], body: bytes) -> bytes:
    """A little-endian TIFF whose directory follows its body."""
    body += bytes(len(body) % 2)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def _tiff_scans() -> bytes:
    """A TIFF whose only strip is a JPEG of 2,000 scans."""
    coded = _jpeg_scans(1000, 2000)
    tags = [(256, 4, 1, 1000), (257, 4, 1, 1000), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 1), (273, 4, 1, 8),
            (277, 3, 1, 1), (278, 4, 1, 1000), (279, 4, 1, len(coded))]  # fmt: skip
    return _tiff(tags, coded)


#: Those that structure checks refuse, by name.
REFUSED: dict[str, Callable[[], bytes]] = {
    "png_profiles": _png_profiles,
    "bmp_runs": lambda: _bmp_runs(18_000_000),
    "jpeg_99_scans": lambda: _jpeg_scans(_SIDE, 99),
    "tiff_2000_scans": _tiff_scans,
}

#: Those that are decoded, by name: near the limits in pixels, and of the dearest kinds.
ACCEPTED: dict[str, Callable[[], bytes]] = {
    "webp_flat": lambda: _encoded(_flat(), "WEBP", quality=0, method=0),
    "webp_lossless": lambda: _encoded(_flat(), "WEBP", lossless=True, quality=0, method=0),
    "tiff_float": lambda: _encoded(_flat("F"), "TIFF", compression="tiff_adobe_deflate"),
    "jpeg_cmyk_progressive": lambda: _encoded(_noise(8000, 6240, "CMYK"), "JPEG", progressive=True, quality=50),
    "jpeg_16_scans": lambda: _jpeg_scans(_SIDE, 16),
    "png_rgba": lambda: _encoded(_flat("RGBA"), "PNG", compress_level=1),
    "png_noise": lambda: _encoded(_noise(3200, 2400, "RGB"), "PNG", compress_level=1),
    "bmp_4_mib": lambda: _bmp_runs(4 * 2**20 - 2),
    "gif_flat": lambda: _encoded(_flat("P"), "GIF"),
    "avif_flat": lambda: _encoded(_flat(), "AVIF", speed=10, quality=20),
    "heif_flat": lambda: _heif(_flat(side=6000)),
    "jpeg2000_flat": lambda: _encoded(_flat("L", 6400), "JPEG2000", num_resolutions=1),
}

#: Those that count as light (`services.replica.decoding`), by name: as large as such an image may
#: be.
LIGHT: dict[str, Callable[[], bytes]] = {
    "jpeg_light": lambda: _encoded(_noise(3840, 3120, "RGB"), "JPEG", quality=95),
    "png_light": lambda: _encoded(_noise(2240, 1552, "RGB"), "PNG", compress_level=1),
    "webp_light": lambda: _encoded(_noise(2240, 1552, "RGB"), "WEBP", lossless=True, quality=0, method=0),
    "avif_light": lambda: _encoded(_noise(1360, 1024, "RGB"), "AVIF", speed=10, quality=90),
    "jpeg2000_light": lambda: _encoded(_noise(720, 536, "RGB"), "JPEG2000"),
}
