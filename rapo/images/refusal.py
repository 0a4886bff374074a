"""StructureRefusal: how the structure checks refuse a file, and the limits that they share."""

from __future__ import annotations

from rapo.config import ImageConfig
from rapo.errors import ImageError

#: What a file of an accepted format counts whose size cannot be read.
UNKNOWN_WORK = 1 << 62


def refuse(what: str) -> None:
    """Raise `ImageError` for a file that has so much of something."""
    raise ImageError(f"the image has {what}; save it again with another program", reason="too_complex")


def check_size(size: int, limits: ImageConfig) -> None:
    """Raise `ImageError` (empty, too_many_bytes) for a file of so many bytes."""
    if size == 0:
        raise ImageError("the image has no bytes", reason="empty")
    if size > limits.max_bytes:
        raise ImageError(
            f"the image has {size:,} bytes; image.max_bytes allows {limits.max_bytes:,}", reason="too_many_bytes"
        )


def check_pixels(width: int, height: int, limits: ImageConfig) -> None:
    """Raise `ImageError` for an image of more pixels than allowed."""
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels; image.max_pixels allows {limits.max_pixels:,}",
            reason="too_many_pixels",
        )


def check_frames(frames: int, limits: ImageConfig) -> None:
    """Raise `ImageError` for more frames or pages than allowed."""
    if frames > limits.max_frames:
        raise ImageError(
            f"the image has {frames:,} frames or pages; image.max_frames allows {limits.max_frames:,}",
            reason="too_many_frames",
        )
