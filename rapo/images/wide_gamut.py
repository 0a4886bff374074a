"""WideGamut: brings an image whose colours are stated by numbers to sRGB.

- Display P3 and BT.2020 become sRGB. Colours that sRGB does not have are clipped to it, as with a
  profile.
- PQ states light in cd/m²: it is compressed into the range of sRGB, with its highlights. HLG is
  made to be shown as it is, so only its primaries are converted.
- Any other statement changes nothing, so that usual images keep their pixels bit for bit.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from rapo.images.stated_colours import StatedColours

#: Red, green, blue and white as x and y: ITU-R BT.709, ITU-R BT.2020, SMPTE EG 432-1 (Display P3).
_SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_WIDE = {
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65 = (0.3127, 0.3290)
_PQ = 16

# In cd/m²: the light of white paper (ITU-R BT.2408), and the brightest that keeps its difference.
_PAPER, _BRIGHTEST = 203.0, 1_000.0
_LEVELS = 1 << 14
#: Pixels that are converted at a time: each takes some 50 bytes meanwhile.
_AT_A_TIME = 1 << 18


def to_srgb(image: Image.Image, colours: StatedColours) -> Image.Image:
    """The RGB `image` in sRGB; it is changed in place."""
    light = _PQ_LIGHT if colours.transfer == _PQ else _SRGB_LIGHT
    matrix = _MATRICES.get(colours.primaries)
    if matrix is None and light is _SRGB_LIGHT:
        return image
    rows = max(1, _AT_A_TIME // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        linear = light[np.asarray(image.crop(box))]
        if matrix is not None:
            linear = linear @ matrix.T
        places = np.clip(linear * (_LEVELS - 1) + 0.5, 0, _LEVELS - 1).astype(np.uint16)
        image.paste(Image.fromarray(_CODES[places]), box)
    return image


def _xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The matrix from linear RGB to XYZ, shape (3, 3): SMPTE RP 177."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in (*primaries, _D65)]).T
    return np.asarray(columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3]))


def _srgb_light(code: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light of values in [0, 1]."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _srgb_code(light: np.ndarray) -> np.ndarray:
    """The inverse of `_srgb_light`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _pq_light(code: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, compressed as in Reinhard et al. 2002, equation 4: paper gets about half of
    the light of the brightest, which is where HLG has it too."""
    power = code ** (32 / 2523)
    light = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (8192 / 1305)
    paper = light / _PAPER
    return np.minimum(paper * (1 + paper * (_PAPER / _BRIGHTEST) ** 2) / (1 + paper), 1.0)


_CODE = np.arange(256) / 255
_SRGB_LIGHT = _srgb_light(_CODE).astype(np.float32)
_PQ_LIGHT = _pq_light(_CODE).astype(np.float32)
_CODES = np.rint(_srgb_code(np.arange(_LEVELS) / (_LEVELS - 1)) * 255).astype(np.uint8)
_MATRICES = {
    number: np.linalg.solve(_xyz(_SRGB), _xyz(primaries)).astype(np.float32) for number, primaries in _WIDE.items()
}
