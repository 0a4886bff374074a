"""Embedded look: what is wrong with the images inside of a source's tables, as far as a few seconds
tell.

- The tables are read in turn, each from its beginning: a table cannot be entered in the middle.
- The first images are decoded; of the others the headers are read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rapo.config import ImageConfig
from rapo.datasets.embedded_images import EmbeddedImage, embedded_in
from rapo.datasets.images.look import DECODED, ImagesSeen
from rapo.datasets.images.usable import CheckSize
from rapo.datasets.labels import Labels
from rapo.errors import ImageError
from rapo.images.decode import check_image_bytes, check_image_file

#: How `rapo.datasets.labels.embedded_file` begins.
_FILE = r"^(?P<number>\d+)/\d+/(?P<place>\d+)"

#: Places in a table, ascending, and the row of the labels that each belongs to.
Rows = tuple[NDArray[np.int64], NDArray[np.int64]]


def look_at_embedded(labels: Labels, limits: ImageConfig, check_size: CheckSize | None, seconds: float) -> ImagesSeen:
    """Look into the image of each row, as far as `seconds` allow. Raises `DataError` where a table
    cannot be read."""
    deadline = time.monotonic() + seconds
    seen = ImagesSeen(images=len(labels), looked_for=len(labels))
    tables = deque(_images(number, labels, rows) for number, rows in enumerate(_rows_by_table(labels)))
    while tables and time.monotonic() < deadline:
        table = tables.popleft()
        some = next(table, None)
        if some is None:
            continue
        for row, image in some:
            try:
                size = _check(image, limits, decode=seen.opened < DECODED)
                if check_size is not None:
                    check_size(*size)
            except ImageError as error:
                seen.refuse(row, error.reason, f"{labels.place(row)} ({image.name or 'without a name'}): {error}")
            seen.opened += 1
        tables.append(table)
    return seen


def _images(number: int, labels: Labels, rows: Rows) -> Iterator[list[tuple[int, EmbeddedImage]]]:
    """The images of a table that belong to a row of the labels, some at a time."""
    places, labelled = rows
    images = labels.embedded[number]
    for batch in images.table.rows([images.column]):
        at = np.minimum(np.searchsorted(places, batch.places), max(0, len(places) - 1))
        yield [
            (int(labelled[i]), image)
            for i, image in zip(at, embedded_in(batch, images), strict=True)
            if len(places) and places[i] == image.place
        ]


def _rows_by_table(labels: Labels) -> list[Rows]:
    found = pc.extract_regex(labels.files, _FILE)
    number, place = (pc.struct_field(found, name).cast(pa.int64()).to_numpy() for name in ("number", "place"))
    tables = []
    for one in range(len(labels.embedded)):
        rows = np.flatnonzero(number == one)
        rows = rows[np.argsort(place[rows])]
        tables.append((place[rows], rows))
    return tables


def _check(image: EmbeddedImage, limits: ImageConfig, *, decode: bool) -> tuple[int, int]:
    if image.content is not None:
        return check_image_bytes(image.content, limits, decode=decode)
    if image.named is None:
        raise ImageError("its cell holds no image", reason="missing")
    return check_image_file(image.named, limits, decode=decode)
