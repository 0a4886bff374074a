"""Embedded images: unpacks images that lie inside of a table into files, once.

Training reads images in any order and many times, for which a column of a Parquet file is too slow.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

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
        cells = batch.cells[images.column]
        if isinstance(cells, list):
            raise DataError(f"{images.table.path}: {images.column} holds no images")
        for place, cell in zip(batch.places, cells, strict=True):
            content, name = (cell["bytes"].as_py(), cell["path"].as_py()) if cell.is_valid else (None, None)
            file = embedded_file(number, int(place), name or "")
            if file not in wanted:
                continue
            if content is not None:
                _write(root / file, content)
            elif name and not (root / file).exists():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).symlink_to((images.table.path.parent / name).absolute())


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
