"""Embedded images: unpacks images that lie inside of a table into files, once.

Training reads images in any order and many times, for which a column of a Parquet file is too slow.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rapo.datasets.files.raw_table import Batch
from rapo.datasets.labels import EmbeddedImages, embedded_file, strings
from rapo.datasets.sources import Part
from rapo.errors import DataError


def unpack(part: Part, work: Path | None) -> Part:
    """The same part with its images in files below `work`. A file that is there already is kept."""
    labels = part.records.labels
    if not labels.embedded:
        return part
    root = (work or _temporary()) / part.records.name
    wanted = set(strings(labels.files))
    for number, images in enumerate(labels.embedded):
        _write_all(number, images, root, wanted)
    unpacked = replace(labels, root=root, embedded=())
    return replace(part, records=replace(part.records, labels=unpacked))


def _write_all(number: int, images: EmbeddedImages, root: Path, wanted: set[str]) -> None:
    """Write the `wanted` images of one table. One that the table only names becomes a link; one
    that it does not even name is missing afterwards, and is reported as such."""
    for batch in images.table.rows([images.column]):
        for image in embedded_in(batch, images):
            name = embedded_file(number, image.place, image.name)
            if name not in wanted:
                continue
            file = root / name
            if image.content is not None:
                _write(file, image.content)
            elif image.named is not None and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.symlink_to(image.named.absolute())


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image of a table: its row's place, its name ("" without one) and its encoded bytes. One
    without bytes is the file `named`, where it has a name."""

    place: int
    name: str
    content: bytes | None
    named: Path | None


def embedded_in(batch: Batch, images: EmbeddedImages) -> Iterator[EmbeddedImage]:
    """The images of some rows. Raises `DataError` where the column holds none."""
    cells = batch.cells[images.column]
    if isinstance(cells, list):
        raise DataError(f"{images.table.path}: {images.column} holds no images")
    for place, cell in zip(batch.places, cells, strict=True):
        content, name = (cell["bytes"].as_py(), cell["path"].as_py()) if cell.is_valid else (None, None)
        named = images.table.path.parent / name if name and content is None else None
        yield EmbeddedImage(int(place), name or "", content, named)


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="rapo-images-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
