"""Plan: which rows are asked about, in which order, until each score band has its critiques.

- Each band has a queue of its images in an order that follows from seed and uids alone. A round
  takes the next rows of the queues.
- A round's sizes follow from the verdicts of all rounds before it. So the rows of a run, and those
  that it keeps, depend neither on the order in which answers come nor on interruptions.
- A band ends when it is full, when its images are exhausted, or at the limit of what may be asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.labels import CHUNK
from rapo.errors import DataError
from rapo.util.seeds import derive_seed

#: A refill expects that at least this share of its rows is kept: what a band lacks is asked for at
#: most so many times over at once.
_LEAST_KEPT = 0.25


@dataclass(slots=True)
class Band:
    """One score band. `queue` holds its rows in the order in which they are asked; `fair` is its
    equal share of the critiques, `wanted` what it shall give, since scarce bands give less, and
    `most` how many rows may be asked.

    `verdicts[i]` says whether row `queue[i]` was kept, for all rows that were asked.
    """

    name: str
    queue: NDArray[np.int32]
    fair: int
    wanted: int
    most: int
    verdicts: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def asked(self) -> int:
        """The rows that were asked."""
        return len(self.verdicts)

    @property
    def good(self) -> int:
        """The rows that the judge kept. A few of them may be more than is wanted."""
        return int(self.verdicts.sum())

    @property
    def kept(self) -> int:
        """The critiques of the band: the first good rows of its queue, as many as are wanted."""
        return min(self.good, self.wanted)

    @property
    def last(self) -> int:
        """The place in the queue of the last critique. Good rows behind it are surplus."""
        return int(np.searchsorted(np.cumsum(self.verdicts), self.wanted))

    @property
    def end(self) -> str:
        """Why no more of the band is asked: "full", "exhausted" or "limit"; empty while there
        is."""
        if self.good >= self.wanted:
            return "full" if self.wanted >= self.fair else "exhausted"
        if self.asked >= len(self.queue):
            return "exhausted"
        return "limit" if self.asked >= self.most else ""

    def next_rows(self) -> int:
        """How many rows the next round asks: what is lacking, and as many more as will be rejected
        if rows go on being rejected at the same rate."""
        if self.end:
            return 0
        lacking = self.wanted - self.good
        rate = max(self.good / self.asked, _LEAST_KEPT) if self.asked else 1.0
        return min(math.ceil(lacking / rate), self.most - self.asked, len(self.queue) - self.asked)


def make_bands(
    scores: Floats, uids: pa.ChunkedArray | pa.Array, bounds: Sequence[float], count: int, seed: int, refill: float
) -> list[Band]:
    """The bands of `count` critiques (or one of each image, if there are fewer), spread equally.

    `bounds` are ascending: `[0, 0.4, 0.7, 1]` makes `[0, 0.4)`, `[0.4, 0.7)` and `[0.7, 1]`. Scores
    beyond the outer bounds belong to the outer bands. What a scarce band lacks is taken equally
    from the others. `refill` is the share of a band's rows that may be asked beyond those that it
    wants. Raises `DataError` for rows that do not fit together.
    """
    _check(scores, uids, bounds, count)
    by_uid = pc.sort_indices(uids).to_numpy()
    _check_unique(uids, by_uid)
    rng = np.random.default_rng(derive_seed(seed, "aescot"))
    band_of = np.searchsorted(np.asarray(bounds[1:-1], dtype=float), scores, side="right").astype(np.int16)[by_uid]
    pools = [by_uid[band_of == number].astype(np.int32) for number in range(len(bounds) - 1)]
    fair = _deal(count, [count] * len(pools))
    wanted = _deal(count, [len(pool) for pool in pools])
    return [
        Band(
            name=f"{low:g}-{high:g}",
            queue=pool[rng.permutation(len(pool))],
            fair=fair[number],
            wanted=wanted[number],
            most=wanted[number] + math.floor(wanted[number] * refill),
        )
        for number, ((low, high), pool) in enumerate(zip(pairwise(bounds), pools, strict=True))
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The rows of one round, in the order in which they are asked: record, band, and place in the
    band's queue. A job holds all of its rounds, so that their integers are small."""

    records: NDArray[np.int32]
    bands: NDArray[np.int16]
    places: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.records)


def next_round(bands: Sequence[Band], seed: int, number: int) -> Round:
    """What is asked next; without rows where every band has ended."""
    sizes = [band.next_rows() for band in bands]
    starts = [band.asked for band in bands]
    places = np.concatenate([np.arange(at, at + size, dtype=np.int32) for at, size in zip(starts, sizes, strict=True)])
    records = np.concatenate([band.queue[at : at + size] for band, at, size in zip(bands, starts, sizes, strict=True)])
    of = np.repeat(np.arange(len(bands), dtype=np.int16), sizes)
    # Mixed, so that every shard has rows of all bands.
    order = np.random.default_rng(derive_seed(seed, "aescot round", number)).permutation(len(records))
    return Round(records[order], of[order], places[order])


def record_verdicts(bands: Sequence[Band], asked: Round, keep: NDArray[np.bool_]) -> None:
    """Give the verdicts of a round, one for each of its rows, to the bands."""
    for number, band in enumerate(bands):
        mine = np.flatnonzero(asked.bands == number)
        in_order = mine[np.argsort(asked.places[mine])]
        band.verdicts = np.concatenate([band.verdicts, keep[in_order]])


def _check(scores: Floats, uids: pa.ChunkedArray | pa.Array, bounds: Sequence[float], count: int) -> None:
    if len(scores) != len(uids):
        raise DataError(f"{len(scores)} scores for {len(uids)} uids: each image needs one of each")
    if len(bounds) < 2 or any(a >= b for a, b in pairwise(bounds)):
        raise DataError(f"score bands must be two or more ascending numbers, not {list(bounds)}")
    if count < 0:
        raise DataError(f"cannot sample {count} images: give a count of 0 or more")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(f"image {uids[row]} has the score {scores[row]}: leave it out or give it a number")


def _check_unique(uids: pa.ChunkedArray | pa.Array, by_uid: NDArray[np.uint64]) -> None:
    """Raise `DataError` for a uid that occurs twice. Few of the sorted uids exist at a time, where
    a hash table of all would be the peak of a job's memory."""
    for start in range(0, len(by_uid), CHUNK):
        names = uids.take(pa.array(by_uid[start : start + CHUNK + 1]))
        same = pc.equal(names[:-1], names[1:])
        if pc.any(same).as_py():
            uid = names[pc.index(same, True).as_py()]
            raise DataError(f"the uid {uid} occurs more than once: make it unique, or its image would be sampled twice")


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
