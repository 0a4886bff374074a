"""Shapes: coverage masks of a scene's parts, with edges about a pixel wide.

Coordinates are in units of the frame, x to the right and y down; `soft` is the width of an edge. A
coverage is in [0, 1], of the shape of `x` and `y`.
"""

from __future__ import annotations

import numpy as np

from rapo.arrays import Floats

#: Coverage of a subject, how far each point faces the light ([-1, 1]), coverage of its window.
Subject = tuple[Floats, Floats, Floats]


def step(distance: Floats, soft: float) -> Floats:
    """1 where `distance` is positive, with a soft edge."""
    return np.clip(distance / soft + 0.5, 0, 1)


def ellipse(x: Floats, y: Floats, cx: float, cy: float, rx: float, ry: float, soft: float) -> Floats:
    return step((1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry), soft)


def box(x: Floats, y: Floats, cx: float, cy: float, half_x: float, half_y: float, soft: float) -> Floats:
    return step(half_x - np.abs(x - cx), soft) * step(half_y - np.abs(y - cy), soft)


def paint(image: Floats, color: Floats, coverage: Floats) -> Floats:
    """`image` with `color` laid over it."""
    return image + (color - image) * coverage[..., None]


def figure(x: Floats, y: Floats, center: float, horizon: float, soft: float) -> Floats:
    """A person on the path to a subject."""
    foot_x, foot_y = center + 0.05 * np.sin(0.2 * 14), horizon + 0.21
    body = ellipse(x, y, foot_x, foot_y - 0.055, 0.022, 0.06, soft)
    return np.maximum(body, ellipse(x, y, foot_x, foot_y - 0.13, 0.02, 0.02, soft))


def tree(x: Floats, y: Floats, center: float, base: float, side: float, soft: float) -> Subject:
    radius = 0.17
    crown = ellipse(x, y, center, base - 0.29, radius, radius, soft)
    trunk = box(x, y, center, base - 0.07, 0.025, 0.08, soft)
    return np.maximum(crown, trunk), np.clip((x - center) * side / radius, -1, 1), np.zeros_like(x)


def peak(x: Floats, y: Floats, center: float, base: float, side: float, soft: float) -> Subject:
    rise = base - y
    shape = step(0.25 * (1 - rise / 0.42) - np.abs(x - center), soft) * step(rise, soft)
    return shape, _facing(x, center, side), np.zeros_like(x)


def house(x: Floats, y: Floats, center: float, base: float, side: float, soft: float) -> Subject:
    walls = box(x, y, center, base - 0.11, 0.15, 0.11, soft)
    rise = base - 0.21 - y
    roof = step(0.19 * (1 - rise / 0.15) - np.abs(x - center), soft) * step(rise, soft)
    return np.maximum(walls, roof), _facing(x, center, side), box(x, y, center, base - 0.11, 0.03, 0.04, soft)


def tower(x: Floats, y: Floats, center: float, base: float, side: float, soft: float) -> Subject:
    """A lighthouse: a tapered shaft with a lantern."""
    rise = base - y
    shaft = step(0.085 - 0.09 * rise - np.abs(x - center), soft) * step(rise, soft) * step(0.42 - rise, soft)
    lantern = box(x, y, center, base - 0.45, 0.05, 0.035, soft)
    return np.maximum(shaft, lantern), np.clip((x - center) * side / 0.08, -1, 1), 0.8 * lantern


def arch(x: Floats, y: Floats, center: float, base: float, side: float, soft: float) -> Subject:
    """A gate of stone, open in its middle."""
    block = box(x, y, center, base - 0.17, 0.19, 0.17, soft)
    opening = np.maximum(
        ellipse(x, y, center, base - 0.17, 0.1, 0.1, soft), box(x, y, center, base - 0.07, 0.1, 0.1, soft)
    )
    return block * (1 - opening), _facing(x, center, side), np.zeros_like(x)


def cypresses(x: Floats, y: Floats, center: float, base: float, side: float, soft: float) -> Subject:
    """A row of three slender trees of different heights."""
    shape = np.zeros_like(x)
    for offset, height in ((-0.12, 0.15), (0.0, 0.22), (0.11, 0.18)):
        shape = np.maximum(shape, ellipse(x, y, center + offset, base - height, 0.045, height, soft))
    return shape, np.clip((x - center) * side / 0.17, -1, 1), np.zeros_like(x)


def _facing(x: Floats, center: float, side: float) -> Floats:
    return np.clip((x - center) * side / 0.015, -1, 1)
