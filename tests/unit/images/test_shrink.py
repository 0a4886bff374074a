"""Shrinking, and data URLs within a size."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from rapo.errors import ImageError
from rapo.images.decode import decode_image
from rapo.images.shrink import data_url, shrink


@pytest.mark.parametrize("size", [(4000, 3000), (300, 9000), (1001, 1000), (200, 20000)])
def test_a_large_image_is_shrunk_within_the_limit_and_keeps_its_proportions(size: tuple[int, int]) -> None:
    small = shrink(Image.new("RGB", size), 1_000_000)
    assert 0.99 * 1_000_000 < small.width * small.height <= 1_000_000
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_a_small_image_is_left_alone() -> None:
    image = Image.new("RGB", (100, 50))
    assert shrink(image, 5000) is image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def opened(url: str) -> Image.Image:
    kind, _, data = url.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:{Image.MIME[image.format or '']}"
    return image


def test_a_data_url_holds_the_pixels_and_nothing_else_of_the_file() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = 6  # lies on its side
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(buffer, "PNG", exif=exif)
    image = opened(data_url(decode_image(buffer.getvalue()), 10_000, 100_000))
    assert image.size == (40, 60)
    assert not image.getexif()
    red, green, blue = image.getpixel((20, 30))  # type: ignore[misc]
    assert abs(red - 200) + abs(green - 30) + abs(blue - 30) < 12


def test_a_data_url_keeps_within_its_bytes_and_the_image_its_proportions() -> None:
    image = noise(800, 400)
    roomy, tight = data_url(image, 10**6, 10**6), data_url(image, 10**6, 20_000)
    assert opened(roomy).size == (800, 400)
    assert len(tight) <= 20_000 < len(roomy)
    assert opened(tight).width == pytest.approx(2 * opened(tight).height, abs=2)
    assert opened(data_url(image, 5_000, 10**6)).size == (100, 50)
    with pytest.raises(ImageError, match="max_image_bytes"):
        data_url(image, 10**6, 300)
