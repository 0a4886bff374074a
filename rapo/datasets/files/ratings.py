"""Ratings: single ratings of many raters, a row each, as mean, spread and votes per image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.files.frame import Frame, read_frame
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.rows import raise_bad_rows


@dataclass(frozen=True, slots=True)
class RatingStatistics:
    """One entry per image; `frame` has the images' names and the place of each one's first rating.
    Spreads are population standard deviations; votes `(N, levels)` count each whole rating."""

    frame: Frame
    means: Floats
    stds: Floats
    votes: NDArray[np.int32]


def rating_statistics(table: RawTable, image: str, score: str, low: int, high: int) -> RatingStatistics:
    """The ratings of a table per image. Raises `DataError` for a rating that is no whole number
    from `low` to `high`."""
    frame = read_frame(table, image, [score])
    ratings = frame.numbers[score]
    wrong = np.flatnonzero((ratings < low) | (ratings > high) | (ratings != np.rint(ratings)))
    raise_bad_rows(
        table.path,
        (f"{table.word} {frame.places[row]}: rating {ratings[row]:g}" for row in wrong),
        f"A rating is a whole number from {low} to {high}.",
    )
    encoded = frame.names.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    count = len(encoded.dictionary)
    levels = high - low + 1
    flat = np.bincount(codes * levels + (ratings - low).astype(np.int64), minlength=count * levels)
    votes = flat.reshape(count, levels).astype(np.int32)
    values, totals = np.arange(low, high + 1), votes.sum(axis=1)
    means = votes @ values / totals
    stds = np.sqrt((votes * np.square(values - means[:, None])).sum(axis=1) / totals)
    first = np.unique(codes, return_index=True)[1]
    images = replace(
        frame, places=frame.places[first], names=pa.chunked_array([encoded.dictionary]), numbers={}, words={}
    )
    return RatingStatistics(images, means, stds, votes)
