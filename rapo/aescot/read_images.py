"""ImageReader: adds the encoded bytes of image files to a table of rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from rapo.aescot.rows import IMAGE, READ
from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import read_image_file


class ImageReader:
    """Makes tables of `READ` of tables of `ASKED`. A file that cannot be read is its row's
    problem."""

    def __init__(self, limits: ImageConfig) -> None:
        self._limits = limits

    def __call__(self, table: pa.Table) -> pa.Table:
        images: list[bytes | None] = []
        problems: list[str | None] = []
        for path in table["path"].to_pylist():
            try:
                images.append(read_image_file(Path(path), self._limits))
                problems.append(None)
            except ImageError as error:
                images.append(None)
                problems.append(str(error))
        reasons = [None if problem is None else IMAGE for problem in problems]
        for name, column in (("image", images), ("problem", problems), ("reason", reasons)):
            table = table.append_column(READ.field(name), pa.array(column, READ.field(name).type))
        return table
