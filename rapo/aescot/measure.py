"""Measures: classical image measures of the five dimensions of beauty, without weights.

- Each measure has a physical meaning. A monotone table maps it to [0, 1], so that steps of 0.2 are
  the five levels of a critique.
- The tables were calibrated on rendered scenes (`rapo.datasets.scenes`), whose attributes are
  known. On photographs they are plausible but not validated: "mood and narrative", which no
  classical measure can see, is measured by fine detail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from rapo.arrays import Floats
from rapo.errors import ImageError
from rapo.records import DIMENSIONS

_SIDE = 84  # the longer side of every image when measured, so that resolution has no effect
_LUMA = np.array([0.299, 0.587, 0.114])
_SCALE = np.linspace(0, 1, 6)
_BLACK, _WHITE = 0.015, 0.97  # luminance outside of these is clipped: it shows no shading and no detail
_ANGLES = np.radians(np.arange(-32, 33, 2.0))
_BALANCED = 0.45  # mean luminance (sRGB values) of a balanced exposure
_FLAT = 0.008  # added to luminance before a logarithm, about one step of 8 bits

# Knots of the monotone maps: the measures for 0, 0.2, .., 1. Values between them are interpolated
# linearly, values outside are held at the ends.
_LIGHT = (0.07, 0.36, 0.70, 1.05, 1.45, 1.85)
_DETAIL = (-38.5, -36.1, -33.2, -29.2, -21.0, -17.1)
_LEVEL = (-24.0, -19.5, -14.5, -9.5, -4.5, 0.0)
_COLOR = (0.07, 0.17, 0.29, 0.41, 0.53, 0.66)
_UNDER = (-2.2, -1.76, -1.32, -0.89, -0.45, 0.0)
_OVER = (-0.81, -0.70, -0.56, -0.38, -0.19, 0.0)


def measure(image: NDArray[np.uint8]) -> dict[str, float]:
    """A value in [0, 1] for each of `DIMENSIONS`, of an image uint8 `(height, width, 3)` of any
    size.

    Raises `ImageError` (reason `layout`) for another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ImageError(
            f"measure takes a uint8 image of shape (height, width, 3), not {image.dtype} {image.shape}: "
            "convert it to RGB first",
            reason="layout",
        )
    rgb = _working_copy(image)
    luminance = rgb @ _LUMA
    seen = (luminance > _BLACK) & (luminance < _WHITE)
    values = (
        np.interp(directional_light(luminance, seen), _LIGHT, _SCALE),
        np.interp(fine_detail(luminance, seen), _DETAIL, _SCALE),
        composition(rgb, luminance),
        np.interp(colorfulness(rgb), _COLOR, _SCALE),
        exposure_balance(luminance),
    )
    return {name: float(np.clip(value, 0, 1)) for name, value in zip(DIMENSIONS, values, strict=True)}


def directional_light(luminance: Floats, seen: NDArray[np.bool_]) -> float:
    """The difference in brightness of the image's two sides, in stops (base 2), without clipped
    pixels.

    It is the weighted median over rows of each row's regression slope, so that a tilted horizon,
    which crosses some rows only, has no effect. `seen` marks the pixels that are not clipped. A
    row's weight follows the spread of its seen pixels, because a clipped end flattens the slope of
    the others.
    """
    value = ndimage.gaussian_filter(np.log2(luminance + _FLAT), 2)
    across = np.linspace(-1, 1, luminance.shape[1])
    count = seen.sum(1) + 1e-9
    x = across - (seen * across).sum(1, keepdims=True) / count[:, None]
    spread = (seen * x * x).sum(1)
    if spread.max() < 1e-6:
        return 0.0
    slopes = 2 * (seen * x * value).sum(1) / (spread + 1e-9)
    order = np.argsort(slopes)
    weight = np.cumsum(spread[order] ** 2)
    return float(abs(slopes[order][np.searchsorted(weight, weight[-1] / 2)]))


def fine_detail(luminance: Floats, seen: NDArray[np.bool_]) -> float:
    """The contrast of the finest structures, in decibels of log luminance. It is low for blur, haze
    and flat areas."""
    value = np.log(luminance + _FLAT)
    residue = value - ndimage.gaussian_filter(value, 1)
    inner = ndimage.binary_erosion(seen)
    if inner.sum() < 0.02 * inner.size:
        inner = np.ones_like(inner)
    return float(20 * np.log10(np.sqrt((residue[inner] ** 2).mean()) + 1e-3))


def horizon_tilt(luminance: Floats) -> tuple[float, float]:
    """The angle of the dominant nearly horizontal edge, in degrees (clockwise positive), and its
    confidence in [0, 1].

    The image is projected along each angle within 32 degrees; the horizon's angle is the one with
    the largest step in its projection.
    """
    height = luminance.shape[0]
    value = ndimage.gaussian_filter(luminance / (luminance.mean() + _FLAT), 1)
    gradient = ndimage.sobel(value, axis=0) / 8
    edge = height // 6
    steps = np.array([abs(_shear(gradient, angle).mean(1))[edge : height - edge].max() for angle in _ANGLES])
    best = int(steps.argmax())
    # A step hardly larger than at other angles is texture, not a horizon.
    clear = (steps[best] - np.median(steps)) / (steps[best] + 1e-6)
    return float(np.degrees(_ANGLES[best])), float(np.clip(min(clear / 0.5, steps[best] / 0.03), 0, 1))


def subject_place(rgb: Floats, luminance: Floats, tilt: float) -> float:
    """The distance of the salient region's centre from the nearer vertical third, in widths of the
    image.

    A pixel is salient if it differs from the rest of its row. Rows run along the horizon, at `tilt`
    degrees.
    """
    value = ndimage.gaussian_filter(rgb / (luminance.mean() + _FLAT), (2, 2, 0))
    value = _shear(value, np.radians(tilt))
    difference = np.linalg.norm(value - np.median(value, axis=1, keepdims=True), axis=2)
    weight = np.clip(difference - np.percentile(difference, 88), 0, None).sum(0)
    if weight.sum() < 1e-6:
        return 1 / 12  # nothing is salient: halfway between the best and the worst place
    center = float(weight @ (np.arange(weight.size) + 0.5)) / float(weight.sum()) / weight.size
    return min(abs(center - 1 / 3), abs(center - 2 / 3))


def composition(rgb: Floats, luminance: Floats) -> float:
    """The quality of the composition in [0, 1]: a level horizon and a subject on a third. The
    horizon weighs most, because its measure is the most reliable."""
    tilt, confidence = horizon_tilt(luminance)
    level = confidence * np.interp(-abs(tilt), _LEVEL, _SCALE) + (1 - confidence) * 0.5
    return float(0.9 * level + 0.1 * np.clip(1 - subject_place(rgb, luminance, tilt) * 6, 0, 1))


def colorfulness(rgb: Floats) -> float:
    """The saturation (upper quartile over pixels), lowered by up to a tenth where the hues do not
    agree.

    Hues agree if they are alike or opposite. Agreement is the resultant length of doubled hue
    angles, weighted by chroma.
    """
    high, low = rgb.max(2), rgb.min(2)
    saturation = float(np.percentile((high - low) / (high + 0.02), 75))
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    chroma = (red - (green + blue) / 2) + 1j * (green - blue) * np.sqrt(0.75)
    size = np.abs(chroma)
    agreement = float(np.abs((chroma**2 / (size + 1e-6)).sum()) / (size.sum() + 1e-6))
    return saturation * (0.9 + 0.1 * agreement)


def exposure_balance(luminance: Floats) -> float:
    """The nearness of the mean luminance to a balanced one, in [0, 1], by the stops between
    them."""
    stops = float(np.log2((luminance.mean() + 1e-4) / _BALANCED))
    return float(np.interp(stops, _UNDER, _SCALE) if stops < 0 else np.interp(-stops, _OVER, _SCALE))


def _working_copy(image: NDArray[np.uint8]) -> Floats:
    """The image in [0, 1], with `_SIDE` pixels on its longer side."""
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    if size != (width, height):
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        image = np.asarray(resized)
    return image.astype(np.float64) / 255


def _shear(value: Floats, angle: float) -> Floats:
    """`value` with its columns shifted so that lines at `angle` radians become rows."""
    height, width = value.shape[:2]
    shift = (np.arange(width) - (width - 1) / 2) * np.tan(angle)
    rows = np.clip(np.rint(np.arange(height)[:, None] + shift).astype(np.intp), 0, height - 1)
    return value[rows, np.arange(width)]
