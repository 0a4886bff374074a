"""Colour profiles: brings the colours of an image to sRGB.

- Models are trained on sRGB, and cameras and phones write Display P3 or Adobe RGB. Their numbers
  taken for sRGB make every colour paler than it was.
- A profile that is sRGB but for its rounding changes nothing, so that usual images keep their
  pixels bit for bit.
- A profile that is damaged, or for another kind of image, is passed over, as decoders of web
  browsers do.
"""

from __future__ import annotations

import io
import struct
from itertools import product

import numpy as np
from PIL import Image, ImageCms

from rapo.errors import ImageError
from rapo.images.boxes import boxes
from rapo.images.structure_jpeg2000 import SIGNATURE

#: Real ones have 500 bytes to some 100 KiB.
_MAX_BYTES = 4 * 2**20
#: A profile changes colours if one of the probe's moves by more than so many levels of 255.
_SAME = 2

_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
_PROBE = np.array(list(product(_LEVELS, repeat=3)), np.uint8).reshape(27, 27, 3)


def embedded_profile(image: Image.Image, data: bytes) -> object:
    """The ICC profile of an image whose encoded bytes are `data`, None without one."""
    known = image.info.get("icc_profile")
    return _of_jpeg2000(data) if not known and data.startswith(SIGNATURE) else known


def _of_jpeg2000(data: bytes) -> bytes | None:
    """The profile in the header of a JPEG 2000 file, which Pillow passes over (ISO 15444-1, annex I
    and 15444-2, annex M: `colr` of the methods 2 and 3)."""
    try:
        for outer in boxes(data, len(SIGNATURE), len(data)):
            if outer.kind == b"jp2c":
                break
            for box in boxes(data, outer.start, outer.end) if outer.kind == b"jp2h" else ():
                if box.kind == b"colr" and data[box.start] in (2, 3):
                    return data[box.start + 3 : box.end]
    except (struct.error, IndexError, ImageError):
        return None
    return None


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """An RGB image of an ICC profile in sRGB, by relative colorimetry as browsers do it."""
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MAX_BYTES or profile[16:20] != b"RGB ":
        return image
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        shifted = np.asarray(ImageCms.applyTransform(Image.fromarray(_PROBE), transform), np.int16)
        if np.abs(shifted - _PROBE).max() <= _SAME:
            return image
        ImageCms.applyTransform(image, transform, inPlace=True)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image
