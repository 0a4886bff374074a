"""Worlds: the palettes, subjects and raters of embedded scenes.

`UNSEEN` shares no palette, no subject and no rater's habit with `USUAL`, which training uses. It
measures how a model does out of its distribution. Both score an image by the same attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rapo.arrays import Floats
from rapo.config import SceneWorld
from rapo.datasets.scenes.shapes import Subject, arch, cypresses, house, peak, tower, tree

#: Hues in [0, 1] of the upper sky, the lower sky, the ground and the subject.
Palette = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class World:
    """`bias` and `noise` are standard deviations of a rater's votes on the scale 1..10: between
    raters, and between images of one rater. `gain` below 1 is a panel that avoids the ends of the
    scale. The hues of a palette harmonise."""

    palettes: tuple[Palette, ...]
    subjects: tuple[Callable[[Floats, Floats, float, float, float, float], Subject], ...]
    bias: float
    noise: float
    gain: float


USUAL = World(
    palettes=(
        (0.58, 0.54, 0.27, 0.36),
        (0.72, 0.07, 0.64, 0.02),
        (0.57, 0.12, 0.09, 0.04),
        (0.62, 0.93, 0.50, 0.88),
        (0.55, 0.47, 0.14, 0.33),
    ),
    subjects=(tree, peak, house),
    bias=0.6,
    noise=0.9,
    gain=1.0,
)
UNSEEN = World(
    palettes=(
        (0.12, 0.17, 0.42, 0.66),
        (0.83, 0.78, 0.31, 0.97),
        (0.98, 0.03, 0.58, 0.17),
        (0.40, 0.36, 0.78, 0.09),
        (0.66, 0.86, 0.02, 0.52),
    ),
    subjects=(tower, arch, cypresses),
    bias=0.9,
    noise=1.2,
    gain=0.8,
)
WORLDS: dict[SceneWorld, World] = {"usual": USUAL, "unseen": UNSEEN}
