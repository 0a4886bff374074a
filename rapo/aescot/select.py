"""Selection: samples the images that get a critique, in equal numbers per score band."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rapo.errors import DataError


def balanced_sample(
    scores: Sequence[float], uids: Sequence[str], bands: Sequence[float], count: int, rng: np.random.Generator
) -> tuple[list[int], dict[str, int]]:
    """Sample `count` of the images (all, if there are fewer), spread equally over the score bands.

    `bands` are ascending bounds: `[0, 0.4, 0.7, 1]` makes `[0, 0.4)`, `[0.4, 0.7)` and `[0.7, 1]`.
    Scores beyond the outer bounds belong to the outer bands. The images that a scarce band lacks
    are taken equally from the others. Returns the indices in random order, and for each band
    ("0-0.4") how many images it lacked of its equal share. The result depends on the uids, not on
    the order of the rows. Raises `DataError` for rows that do not fit together.
    """
    if len(scores) != len(uids):
        raise DataError(f"{len(scores)} scores for {len(uids)} uids: each image needs one of each")
    if len(set(uids)) != len(uids):
        raise DataError("some uids occur more than once: make them unique, or an image would be sampled twice")
    if len(bands) < 2 or any(a >= b for a, b in pairwise(bands)):
        raise DataError(f"score bands must be two or more ascending numbers, not {list(bands)}")
    if count < 0:
        raise DataError(f"cannot sample {count} images: give a count of 0 or more")
    for uid, score in zip(uids, scores, strict=True):
        if not np.isfinite(score):
            raise DataError(f"image {uid} has the score {score}: leave it out or give it a number")
    band_of = np.searchsorted(np.asarray(bands[1:-1], dtype=float), np.asarray(scores, dtype=float), side="right")
    pools: list[list[int]] = [[] for _ in range(len(bands) - 1)]
    for index in sorted(range(len(uids)), key=lambda i: uids[i]):
        pools[int(band_of[index])].append(index)
    shares = _deal(count, [count] * len(pools))
    taken = _deal(count, [len(pool) for pool in pools])
    chosen = [pool[i] for pool, take in zip(pools, taken, strict=True) for i in rng.permutation(len(pool))[:take]]
    shortfall = {
        f"{low:g}-{high:g}": max(0, share - take)
        for (low, high), share, take in zip(pairwise(bands), shares, taken, strict=True)
    }
    return [chosen[i] for i in rng.permutation(len(chosen))], shortfall


def _deal(count: int, capacity: list[int]) -> list[int]:
    """Split `count` as equally as the capacities allow. Lower bands get the remainder."""
    dealt, open_bands = [0] * len(capacity), list(range(len(capacity)))
    # Each round fills a band or deals everything, so there is at most one round more than bands.
    while count > 0 and open_bands:
        share, odd = divmod(count, len(open_bands))
        for place, band in enumerate(open_bands):
            take = min(share + (place < odd), capacity[band] - dealt[band])
            dealt[band] += take
            count -= take
        open_bands = [band for band in open_bands if dealt[band] < capacity[band]]
    return dealt
