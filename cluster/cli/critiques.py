"""Critiques: writes the kept critiques of a run for other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq

from cluster.files.atomic import disk_full_named
from cluster.pipeline.stages.aescot import CRITIQUES
from rapo.aescot.exchange.conversation import exchange_row
from rapo.errors import RunFolderError

_COLUMNS = ("path", "score", "critique", "keep")


def write_critiques(run: Path, file: Path, relative_to: Path | None) -> int:
    """Write the kept critiques of the run as JSON lines; returns how many they are. Image paths are
    absolute, or relative to a folder.

    Raises `RunFolderError` where the run has no critiques, or an image lies outside the folder.
    """
    source = run / "aescot" / CRITIQUES
    if not source.is_file():
        raise RunFolderError(f"{source} does not exist: the stage aescot of {run} is not finished")
    aside, count = file.with_name(f".{file.name}.part"), 0
    with disk_full_named(file), aside.open("w", encoding="utf-8") as out:
        for batch in pq.ParquetFile(source).iter_batches(columns=list(_COLUMNS)):
            for path, score, critique, keep in zip(*(batch[name].to_pylist() for name in _COLUMNS), strict=True):
                if keep:
                    row = exchange_row(_name(Path(path), relative_to), critique, score)
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
    os.replace(aside, file)
    return count


def _name(path: Path, folder: Path | None) -> str:
    if folder is None:
        return str(path)
    try:
        return path.relative_to(folder.resolve()).as_posix()
    except ValueError as error:
        raise RunFolderError(f"{path} does not lie in {folder}; give a folder that holds all images") from error
