"""Raters: a simulated panel that votes on scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.scenes.worlds import USUAL, World


def rater_panel(rng: np.random.Generator, raters: int, world: World = USUAL) -> Floats:
    """The biases of a panel `(raters,)` in votes of the scale 1..10, centred because a common bias
    only shifts the scale."""
    biases = rng.normal(0, world.bias, raters)
    return biases - biases.mean()


def rate_scene(rng: np.random.Generator, score: float, panel: Floats, world: World = USUAL) -> NDArray[np.int64]:
    """Votes of a panel on one scene: counts `(10,)` of the votes 1..10 around `1 + 9 * score`,
    nearer to the middle by the world's gain."""
    center = 0.5 + world.gain * (score - 0.5)
    votes = np.rint(1 + 9 * center + panel + rng.normal(0, world.noise, panel.size))
    return np.bincount(np.clip(votes, 1, 10).astype(np.int64) - 1, minlength=10)
