"""Scenes: renders photograph-like scenes with a known latent beauty.

Five attributes in [0, 1], one for each of `rapo.records.DIMENSIONS`, are sampled independently and
rendered:

- light and shadow: directional light (fall-off across the frame, lit and dark sides, a cast shadow)
  against flat light;
- mood and narrative: a clear path, figure and lit window, against a soft image in which they
  dissolve;
- composition: the subject on a third over a level horizon, against centred or at the edge under a
  tilted one;
- color: saturated hues of one palette, against grey ones that drift apart;
- exposure: balanced mid-tones, against a dark frame or clipped highlights.

The latent score is their stretched weighted mean. Palettes and subjects are those of a world
(`rapo.datasets.scenes.worlds`).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rapo.arrays import Floats
from rapo.datasets.scenes.shapes import ellipse, figure, paint, step
from rapo.datasets.scenes.worlds import USUAL, World
from rapo.errors import DataError
from rapo.records import DIMENSIONS

_WEIGHTS = dict(zip(DIMENSIONS, (0.18, 0.20, 0.24, 0.20, 0.18), strict=True))
_MEAN, _STRETCH, _JITTER = 0.54, 1.42, 0.012
_LUMA = np.array([0.299, 0.587, 0.114])
_TEXTURE = 96  # texture has a grid of this side, so that a scene looks alike at every size


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered image: `image` is uint8 (size, size, 3); `attributes` has one value in [0, 1] per
    dimension."""

    image: NDArray[np.uint8]
    attributes: dict[str, float]
    score: float


def render_scene(rng: np.random.Generator, size: int, world: World = USUAL) -> Scene:
    """Sample the attributes of one scene from `rng` and render it with `size` x `size` pixels.

    Raises `DataError` for a size below 56, at which the details that show the attributes vanish.
    """
    if size < 56:
        raise DataError(f"a scene needs at least 56 pixels a side, not {size}: raise data.scenes.size")
    attributes = {
        name: float(value) for name, value in zip(DIMENSIONS, rng.uniform(0, 1, len(DIMENSIONS)), strict=True)
    }
    mean = sum(_WEIGHTS[name] * value for name, value in attributes.items())
    score = float(np.clip(_MEAN + _STRETCH * (mean - 0.5) + rng.normal(0, _JITTER), 0.01, 0.99))
    return Scene(_render(rng, size, world, *(attributes[name] for name in DIMENSIONS)), attributes, score)


def _render(
    rng: np.random.Generator,
    size: int,
    world: World,
    light: float,
    mood: float,
    composition: float,
    color: float,
    exposure: float,
) -> NDArray[np.uint8]:
    soft = 1.2 / size  # the width of edges in units of the frame: about a pixel
    grid = (np.arange(size) + 0.5) / size
    frame_x, frame_y = np.meshgrid(grid, grid)
    side = rng.choice([-1.0, 1.0])  # where the light comes from

    level, placed = np.clip(composition + rng.normal(0, 0.04, 2), 0, 1)
    tilt = rng.choice([-1.0, 1.0]) * (1 - level) * 0.42
    third, worst = rng.choice([1 / 3, 2 / 3]), rng.choice([0.5, 0.5, 0.04, 0.96])
    # The coordinates of the scene are those of the frame, rotated about its centre by the tilt.
    x = 0.5 + (frame_x - 0.5) * np.cos(tilt) - (frame_y - 0.5) * np.sin(tilt)
    y = 0.5 + (frame_x - 0.5) * np.sin(tilt) + (frame_y - 0.5) * np.cos(tilt)
    horizon = 0.53 + 0.12 * placed
    subject_x = third + (worst - third) * (1 - placed)
    base = horizon + 0.05

    sky_top, sky_low, ground, subject = _colors(rng, world, color)
    blend = np.clip(y / horizon, 0, 1)[..., None]
    image = sky_top + (sky_low - sky_top) * blend
    image = paint(image, ground * (1.15 - 0.5 * np.clip(y - horizon, 0, 1))[..., None], step(y - horizon, soft))
    texture = _texture(rng, size)
    image = image * (1 + (0.05 + 0.20 * step(y - horizon, soft)) * texture)[..., None]

    shadow = ellipse(x, y, subject_x - side * 0.24, base + 0.03, 0.28, 0.05, soft * 3) * step(y - horizon, soft)
    image = image * (1 - 0.75 * light * shadow)[..., None]
    winding = subject_x + 0.05 * np.sin((y - horizon) * 14)
    path = step(0.02 + 0.16 * (y - horizon) - np.abs(x - winding), soft) * step(y - horizon - 0.03, soft)
    image = paint(image, 0.5 * sky_low + 0.5 * ground + 0.1, 0.8 * mood * path)

    subject_of = world.subjects[rng.integers(len(world.subjects))]
    shape, lit, window = subject_of(x, y, subject_x, base, side, soft)
    shaded = subject * (1 + 0.75 * light * lit)[..., None] * (1 + 0.22 * texture)[..., None]
    image = paint(image, shaded, shape)
    glow = np.array([1.0, 0.75, 0.35]) * color + 0.75 * (1 - color)
    image = paint(image, glow, mood * window)
    image = paint(image, ground * 0.15, mood * figure(x, y, subject_x, horizon, soft))

    fall_off = 1 + 0.62 * light * side * (2 * frame_x - 1)
    image = ndimage.gaussian_filter(image * fall_off[..., None], (*[2.4 * (1 - mood) * size / 84] * 2, 0))
    # The frame is balanced first, so that the stops below are the whole exposure error.
    image = image * (0.45 / float((image @ _LUMA).mean()))
    over = rng.uniform() < 0.3
    stops = (1 - exposure) * (1.1 if over else -2.2)
    image = image * 2.0**stops + rng.normal(0, 0.004, image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _colors(rng: np.random.Generator, world: World, color: float) -> list[Floats]:
    hues = np.array(world.palettes[rng.integers(len(world.palettes))]) + rng.normal(0, 0.015, 4)
    hues = hues + (1 - color) * rng.uniform(-0.22, 0.22, 4)
    colors = []
    for hue, luma in zip(hues, (0.50, 0.78, 0.27, 0.44), strict=True):
        rgb = np.array(colorsys.hsv_to_rgb(float(hue) % 1.0, 0.06 + 0.68 * color, 1.0))
        colors.append(rgb * luma / float(rgb @ _LUMA))
    return colors


def _texture(rng: np.random.Generator, size: int) -> Floats:
    noise = rng.normal(0, 1, (_TEXTURE, _TEXTURE))
    noise = 0.75 * noise + 2.0 * ndimage.gaussian_filter(noise, 1.5)
    if size <= _TEXTURE:
        return noise[:size, :size]
    return ndimage.zoom(noise, size / _TEXTURE, order=1, grid_mode=True, mode="nearest")[:size, :size]
