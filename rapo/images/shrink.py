"""Shrinking: smaller copies of images, and images as data URLs within a size."""

from __future__ import annotations

import base64
import io
import math

from PIL import Image

from rapo.errors import ImageError

_PREFIX = "data:image/jpeg;base64,"
_QUALITIES = (95, 85, 75)
# The least pixels to which an image is shrunk for the sake of its bytes.
_FEWEST = 32 * 32


def shrink(image: Image.Image, max_pixels: int) -> Image.Image:
    """`image`, or a smaller copy of the same proportions with at most `max_pixels` pixels."""
    if image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def data_url(image: Image.Image, max_pixels: int, max_bytes: int) -> str:
    """The RGB `image` as a data URL of at most `max_bytes` characters.

    It is encoded anew as JPEG: what a file says besides its pixels (place, camera, thumbnail) does
    not leave the machine. A large image is shrunk to `max_pixels`, and further where it has too
    many bytes. Raises `ImageError` (too_many_bytes) where even a tiny copy has too many.
    """
    while True:
        image = shrink(image, max_pixels)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            url = _PREFIX + base64.b64encode(buffer.getbuffer()).decode("ascii")
            if len(url) <= max_bytes:
                return url
        max_pixels = image.width * image.height // 2
        if max_pixels < _FEWEST:
            raise ImageError(
                f"no copy of the image fits into endpoint.max_image_bytes = {max_bytes:,}", reason="too_many_bytes"
            )
