"""BatchSampler: samples the images that a step trains on.

A batch depends on (seed, step) alone, so that a resumed run samples the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapo.errors import DataError
from rapo.records import ImageRecord
from rapo.util.seeds import derive_seed


class BatchSampler:
    """Samples `size` records per step, or as many as the smallest data set has.

    Each record is sampled once per epoch, and no batch holds an image twice, even where it spans
    two epochs. Unless `mix_datasets`, a batch holds images of one data set only, because scores of
    different sets are not comparable; the sets take turns in proportion to their sizes. Raises
    `DataError` without records.
    """

    def __init__(self, records: Sequence[ImageRecord], size: int, *, seed: int, mix_datasets: bool) -> None:
        if not records:
            raise DataError("there is no training image to sample from")
        names = ["*"] if mix_datasets else sorted({r.dataset for r in records})
        self._pools = {n: [i for i, r in enumerate(records) if n in ("*", r.dataset)] for n in names}
        # Each pool's latest epoch and its order, because an order depends on the one before.
        self._orders: dict[str, tuple[int, list[int]]] = {}
        self._records = records
        self._seed = seed
        self.size = min(size, min(len(pool) for pool in self._pools.values()))

    def batch(self, step: int) -> list[ImageRecord]:
        """The records of step 0, 1, 2, ..."""
        name, turn = self._turn(step)
        pool = self._pools[name]
        epoch, offset = divmod(turn * self.size, len(pool))
        picked = self._order(name, epoch)[offset : offset + self.size]
        if len(picked) < self.size:
            picked = picked + self._order(name, epoch + 1)[: self.size - len(picked)]
        return [self._records[i] for i in picked]

    def _turn(self, step: int) -> tuple[str, int]:
        """The data set of a step, and the number of its batches before that step (smooth weighted
        round robin)."""
        if len(self._pools) == 1:
            return next(iter(self._pools)), step
        total = sum(len(pool) for pool in self._pools.values())
        taken = dict.fromkeys(self._pools, 0)
        for s in range(step + 1):
            name = max(self._pools, key=lambda n: ((s + 1) * len(self._pools[n]) / total - taken[n], n))
            taken[name] += 1
        return name, taken[name] - 1

    def _order(self, name: str, epoch: int) -> list[int]:
        """A pool's records in the order in which an epoch samples them."""
        pool = self._pools[name]
        known, order = self._orders.get(name, (-1, []))
        if known > epoch:
            known, order = -1, []
        while known < epoch:
            known += 1
            rng = np.random.default_rng(derive_seed(self._seed, "batch", name, known))
            shuffled = [pool[i] for i in rng.permutation(len(pool))]
            # The last batch of the epoch before ends in this epoch: the records that it already
            # holds must come later here.
            tail = known * len(pool) % self.size
            order = _after(shuffled, set(order[len(pool) - tail :]), self.size - tail) if tail else shuffled
            self._orders[name] = known, order
        return order


def _after(shuffled: list[int], taken: set[int], head: int) -> list[int]:
    """`shuffled` with none of `taken` among its first `head` items, otherwise in order."""
    first = [i for i in shuffled if i not in taken][:head]
    chosen = set(first)
    return first + [i for i in shuffled if i not in chosen]
