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
from itertools import product

import numpy as np
from PIL import Image, ImageCms

#: Real ones have 500 bytes to some 100 KiB.
_MAX_BYTES = 4 * 2**20
#: A profile changes colours if one of the probe's moves by more than so many levels of 255.
_SAME = 2

_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
_PROBE = np.array(list(product(_LEVELS, repeat=3)), np.uint8).reshape(27, 27, 3)


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
