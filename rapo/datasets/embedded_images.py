"""Embedded images: unpacks images that lie inside of a table into files, once.

Training reads images in any order and many times, for which a column of a Parquet file is too slow.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from rapo.datasets.labels import EmbeddedImages
from rapo.datasets.sources import Part
from rapo.errors import DataError

_PER_FOLDER = 1000


def unpack(part: Part, work: Path | None) -> Part:
    """The same part with its images in files below `work`. A file that is there already is kept."""
    labels = part.records.labels
    if labels.embedded is None:
        return part
    root = (work or _temporary()) / part.records.name
    files = _write_all(labels.embedded, root, list(labels.places), labels.root)
    column = pa.chunked_array([pa.array(files, pa.large_string())])
    unpacked = replace(labels, root=root, files=column, embedded=None)
    return replace(part, records=replace(part.records, labels=unpacked))


def _write_all(images: EmbeddedImages, root: Path, wanted: list[int], beside: Path) -> list[str]:
    """Write the images of the rows `wanted` (ascending); the file of each, relative to `root`. An
    image that the table only names lies `beside` it."""
    files: list[str] = []
    at = 0
    for batch in images.table.rows([images.column]):
        cells = batch.cells[images.column]
        if isinstance(cells, list):
            raise DataError(f"{images.table.path}: {images.column} holds no images")
        for place, cell in zip(batch.places, cells, strict=True):
            if at == len(wanted) or place != wanted[at]:
                continue
            at += 1
            content = cell["bytes"].as_py() if cell.is_valid else None
            name = cell["path"].as_py() if cell.is_valid else None
            if content is None:
                files.append(str(beside.absolute() / name) if name else f"row-{place}")
                continue
            file = Path(f"{place // _PER_FOLDER:06d}", f"{place:09d}{Path(name or '').suffix}")
            _write(root / file, content)
            files.append(str(file))
    return files


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
