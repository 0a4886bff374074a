"""Colour profiles: wide gamuts become sRGB once, in every format alike."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from icc import ADOBE_RGB, DISPLAY_P3, SRGB, icc_profile
from PIL import Image, ImageCms

from rapo.config import ImageConfig
from rapo.images.decode import decode_image

WIDE = icc_profile(DISPLAY_P3)
GREEN = Image.new("RGB", (32, 32), (120, 200, 90))
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "HEIF": {"quality": -1, "chroma": 444},
}


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pixel(data: bytes) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(decode_image(data, ImageConfig(min_side=1)))[0, 0])


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB], ids=["display p3", "adobe rgb"])
def test_a_wide_gamut_becomes_srgb(primaries: tuple[tuple[float, float, float], ...]) -> None:
    """A green that is saturated there has less red here. The numbers follow from the matrices."""
    found = pixel(encode(GREEN, icc_profile=icc_profile(primaries)))
    linear = np.array([(value / 255) ** 2.2 for value in (120, 200, 90)])
    wanted = np.linalg.solve(np.array(SRGB).T, np.array(primaries).T @ linear).clip(0, 1)
    coded = np.where(wanted <= 0.0031308, 12.92 * wanted, 1.055 * wanted ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.array(found) - coded).max() < 2
    assert found[0] < 100


@pytest.mark.parametrize("format", LOSSLESS)
def test_every_format_gives_the_same_colours(format: str) -> None:
    found = pixel(encode(GREEN, format, icc_profile=WIDE, **LOSSLESS[format]))
    assert np.abs(np.array(found) - np.array(pixel(encode(GREEN, icc_profile=WIDE)))).max() <= 2


def jpeg2000(profile: bytes, method: int = 2) -> bytes:
    """Pillow writes none: the header's statement of the colours is replaced."""
    data = encode(GREEN, "JPEG2000")
    start = data.index(b"jp2h") - 4
    end = start + struct.unpack_from(">I", data, start)[0]
    colours = data.index(b"colr", start) - 4
    header = data[start + 8 : colours] + struct.pack(">I4sBBB", 11 + len(profile), b"colr", method, 0, 0) + profile
    return data[:start] + struct.pack(">I4s", 8 + len(header), b"jp2h") + header + data[end:]


@pytest.mark.parametrize("method", [2, 3])
def test_a_profile_in_jpeg_2000_counts_too(method: int) -> None:
    assert np.abs(np.array(pixel(jpeg2000(WIDE, method))) - np.array(pixel(encode(GREEN, icc_profile=WIDE)))).max() <= 1
    assert pixel(jpeg2000(b"no profile", method)) == (120, 200, 90)
    assert pixel(encode(GREEN, "JPEG2000")) == (120, 200, 90)


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_formats_with_loss_give_nearly_the_same(format: str) -> None:
    found = pixel(encode(GREEN, format, icc_profile=WIDE, quality=100))
    assert np.abs(np.array(found) - np.array(pixel(encode(GREEN, icc_profile=WIDE)))).max() <= 6


def test_srgb_keeps_its_pixels() -> None:
    y, x = np.mgrid[0:64, 0:64]
    image = Image.fromarray(np.stack([x * 4, y * 4, (x + y) * 2], axis=-1).astype(np.uint8))
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), None):
        assert decode_image(encode(image, icc_profile=profile)).tobytes() == image.tobytes()


def test_alpha_is_composited_and_grey_kept() -> None:
    clear = Image.new("RGBA", (32, 32), (120, 200, 90, 0))
    assert pixel(encode(clear, icc_profile=WIDE)) == (255, 255, 255)
    assert pixel(encode(Image.new("L", (32, 32), 128), icc_profile=WIDE))[0] == pytest.approx(128, abs=2)


@pytest.mark.parametrize(
    "profile",
    [b"no profile", b"\0" * 200, WIDE[:200], WIDE[:16] + b"CMYK" + WIDE[20:], WIDE[:128] + b"\xff" * 300],
    ids=["text", "zeros", "cut", "of another kind", "torn"],
)
def test_a_profile_that_cannot_be_used_is_passed_over(profile: bytes) -> None:
    assert pixel(encode(GREEN, icc_profile=profile)) == (120, 200, 90)
