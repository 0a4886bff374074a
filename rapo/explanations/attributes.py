"""Image attributes: the value of each aesthetic dimension in each image, that statements are
compared with.

- `"attributes"`: the data set's own values, where every image has them (the embedded scenes).
- `"measured"`: `rapo.aescot.measure` on the pixels, for all images, where one has none. Values of
  both kinds are never mixed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rapo.aescot.measure import measure
from rapo.arrays import Floats
from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import decode_image, read_image_bytes
from rapo.records import DIMENSIONS, ImageRecord

Source = Literal["attributes", "measured"]


@dataclass(frozen=True, slots=True)
class ImageAttributes:
    """`values` `(n, 5)` in [0, 1], in the order of `DIMENSIONS`. The row of an image that cannot be
    read is NaN."""

    source: Source
    values: Floats


def image_attributes(records: Sequence[ImageRecord], limits: ImageConfig) -> ImageAttributes:
    """The attributes of each record's image. Measuring takes some milliseconds an image and a
    core."""
    known = [record.attributes for record in records if record.attributes is not None]
    if len(known) == len(records):
        return ImageAttributes("attributes", np.asarray(known, np.float64).reshape(-1, len(DIMENSIONS)))

    def measured(record: ImageRecord) -> list[float]:
        try:
            image = decode_image(read_image_bytes(record, limits), limits)
            values = measure(np.asarray(image))
        except ImageError:
            return [np.nan] * len(DIMENSIONS)
        return [values[name] for name in DIMENSIONS]

    # Decoding and NumPy's work happen outside the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(measured, records))
    return ImageAttributes("measured", np.asarray(rows, np.float64).reshape(-1, len(DIMENSIONS)))
