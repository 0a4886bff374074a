"""Which images a step trains on: a function of (seed, step) alone, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapo.errors import DataError
from rapo.records import ImageRecord
from rapo.seeds import derive_seed


class BatchSampler:
    """Draws `size` records per step without replacement within an epoch; an epoch's tail is carried into the next.

    Unless `mix_datasets`, a batch holds images of one data set only (scores of different sets are not comparable); the
    sets take turns in proportion to their sizes.
    """

    def __init__(self, records: Sequence[ImageRecord], size: int, *, seed: int, mix_datasets: bool) -> None:
        if not records:
            raise DataError("there is no training image to draw from")
        names = ["*"] if mix_datasets else sorted({r.dataset for r in records})
        self._pools = {n: [i for i, r in enumerate(records) if n in ("*", r.dataset)] for n in names}
        self._records = records
        self._seed = seed
        self.size = min(size, min(len(pool) for pool in self._pools.values()))

    def batch(self, step: int) -> list[ImageRecord]:
        """The records of step 0, 1, 2, ..."""
        name, turn = self._turn(step)
        pool = self._pools[name]
        first = turn * self.size
        picked: list[int] = []
        for position in range(first, first + self.size):
            epoch, offset = divmod(position, len(pool))
            index = pool[self._permutation(name, epoch)[offset]]
            if index in picked:  # a batch across two epochs may meet an image again; the next free one takes its place
                index = next(i for i in pool if i not in picked)
            picked.append(index)
        return [self._records[i] for i in picked]

    def _turn(self, step: int) -> tuple[str, int]:
        """The data set of a step and how many of its batches went before (smooth weighted turns)."""
        if len(self._pools) == 1:
            return next(iter(self._pools)), step
        total = sum(len(pool) for pool in self._pools.values())
        taken = dict.fromkeys(self._pools, 0)
        for s in range(step + 1):
            name = max(self._pools, key=lambda n: ((s + 1) * len(self._pools[n]) / total - taken[n], n))
            taken[name] += 1
        return name, taken[name] - 1

    def _permutation(self, name: str, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self._seed, "batch", name, epoch)).permutation(len(self._pools[name]))
