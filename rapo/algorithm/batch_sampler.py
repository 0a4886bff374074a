"""BatchSampler: samples the images that a step trains on.

- A batch depends on (seed, step) alone, so that a resumed run samples the same batches.
- Each data set has a share of the images: its weight, or its size where no weights are given.
- A set that is smaller than a batch does not make batches smaller: the other sets fill them up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rapo.datasets.record_table import RecordTable
from rapo.errors import DataError
from rapo.records import ImageRecord
from rapo.util.seeds import derive_seed

_NOTHING = (-1, np.empty(0, np.int64))


@dataclass(slots=True)
class _Pool:
    """The records of one data set. `spans` maps an epoch to how many images the batch that reaches
    into it takes of the epoch before, and how many in all. `latest` is the latest epoch whose order
    is known, because an order depends on the one before."""

    name: str
    rows: NDArray[np.int64]
    share: float
    taken: int = 0
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    latest: tuple[int, NDArray[np.int64]] = _NOTHING


class BatchSampler:
    """Samples `size` records per step, or all records where there are fewer.

    Each record is sampled once per epoch of its data set, and no batch holds an image twice, even
    where it spans two epochs. Unless `mix_datasets`, a batch holds images of one data set where
    that has enough, because scores of different sets are not comparable; the sets take turns in
    proportion to their shares. With `mix_datasets` and weights, each batch is divided by them.
    `weights` name every data set, in any unit. Raises `DataError` without records, and for weights
    that do not fit.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: int,
        *,
        seed: int,
        mix_datasets: bool,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        rows = _by_dataset(records, pooled=mix_datasets and not weights)
        if not rows:
            raise DataError("there is no training image to sample from")
        if weights and (missing := sorted(rows.keys() - weights.keys())):
            raise DataError(f"the data set {missing[0]!r} has no weight, but others have; give each source a weight")
        shares = {name: weights[name] if weights else float(len(rows[name])) for name in sorted(rows)}
        total = sum(shares.values())
        self._pools = [_Pool(name, rows[name], share / total) for name, share in shares.items()]
        self._records = records
        self._seed = seed
        self._mix = mix_datasets
        #: For each step so far: how many images of each pool it takes, and from where on.
        self._plan: list[list[tuple[int, int]]] = []
        self.size = min(size, len(records))

    def batch(self, step: int) -> list[ImageRecord]:
        """The records of step 0, 1, 2, ..."""
        while len(self._plan) <= step:
            self._plan.append(self._next_counts())
        picked: list[NDArray[np.int64]] = []
        for pool, (start, count) in zip(self._pools, self._plan[step], strict=True):
            if count:
                epoch, offset = divmod(start, len(pool.rows))
                part = self._order(pool, epoch)[offset : offset + count]
                picked.append(part)
                if len(part) < count:
                    picked.append(self._order(pool, epoch + 1)[: count - len(part)])
        return [self._records[int(row)] for row in np.concatenate(picked)]

    def _next_counts(self) -> list[tuple[int, int]]:
        """The next step's images of each pool: the pool that lacks most of its share comes first,
        and takes all of the batch that it can fill (or its share of it in a mixed batch)."""
        planned = (len(self._plan) + 1) * self.size
        counts = dict.fromkeys(range(len(self._pools)), 0)
        left = self.size
        lacks = sorted(
            ((planned * pool.share - pool.taken, pool.name, at) for at, pool in enumerate(self._pools)), reverse=True
        )
        for lack, _, at in lacks:
            most = max(0, round(lack)) if self._mix else left
            counts[at] = min(left, most, len(self._pools[at].rows))
            left -= counts[at]
        for _, _, at in lacks:  # what rounding and small sets leave over
            more = min(left, len(self._pools[at].rows) - counts[at])
            counts[at] += more
            left -= more
        return [self._take(pool, counts[at]) for at, pool in enumerate(self._pools)]

    def _take(self, pool: _Pool, count: int) -> tuple[int, int]:
        start, length = pool.taken, len(pool.rows)
        pool.taken += count
        if count and (epoch := pool.taken // length) > start // length:
            pool.spans[epoch] = (epoch * length - start, count)
        return start, count

    def _order(self, pool: _Pool, epoch: int) -> NDArray[np.int64]:
        """A pool's rows in the order in which an epoch samples them."""
        known, order = pool.latest
        if known > epoch:
            known, order = _NOTHING
        while known < epoch:
            known += 1
            rng = np.random.default_rng(derive_seed(self._seed, "batch", pool.name, known))
            shuffled = pool.rows[rng.permutation(len(pool.rows))]
            # The last batch of the epoch before ends in this epoch: the records that it already
            # holds must come later here.
            tail, count = pool.spans.get(known, (0, 0))
            order = _after(shuffled, order[len(order) - tail :], count - tail) if tail else shuffled
            pool.latest = known, order
        return order


def _by_dataset(records: Sequence[ImageRecord], *, pooled: bool) -> dict[str, NDArray[np.int64]]:
    """The rows of each data set, or all rows as "*". A table is not turned into records for it."""
    if not records:
        return {}
    if pooled:
        return {"*": np.arange(len(records))}
    if isinstance(records, RecordTable):
        names, codes = records.datasets
    else:
        names = tuple(dict.fromkeys(record.dataset for record in records))
        codes = np.array([names.index(record.dataset) for record in records], np.int32)
    rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    return {name: mine for name, mine in rows.items() if len(mine)}


def _after(shuffled: NDArray[np.int64], taken: NDArray[np.int64], head: int) -> NDArray[np.int64]:
    """`shuffled` with none of `taken` among its first `head` items, otherwise in order."""
    first = shuffled[~np.isin(shuffled, taken)][:head]
    return np.concatenate([first, shuffled[~np.isin(shuffled, first)]])
