"""Index: the records of a run on disk, so that later stages and resumed runs read them at once.

- It is made once, by the data stage. Its columns are mapped into memory, not read.
- It knows the label files that it was made from. Where one has changed since, reading fails: the
  stages of one run must see the same labels.
- What lies in the folder of the index is found again where the folder is moved.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from rapo.datasets.labels import CHUNK, Labels
from rapo.datasets.load import Dataset
from rapo.datasets.record_table import RecordPart, RecordTable
from rapo.datasets.scales import Scale
from rapo.errors import RunFolderError

_INDEX = "index.json"
_REVISION = 1  # raise it when an older index must be made again


def write_index(folder: Path, dataset: Dataset) -> None:
    """Write the index of a data set into `folder`. It is complete or not there at all."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    table = dataset.records
    for number, part in enumerate(table.parts):
        file = f"index-{number}.arrow"
        _write_rows(folder / file, part, table.row[table.part == number])
        scale = asdict(part.scale)
        parts.append(
            {
                "file": file,
                "name": part.name,
                "root": _stored(part.labels.root, folder),
                "ids": part.ids,
                "scale": scale,
            }
        )
    content = {
        "revision": _REVISION,
        "labels": {_stored(path, folder): _hash(path) for path in dataset.files},
        "name": dataset.name,
        "parts": parts,
        "info": dataset.info,
        "skipped": dataset.skipped,
        "leaks": dataset.leaks,
    }
    temporary = folder / f"{_INDEX}.part"
    temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    temporary.replace(folder / _INDEX)


def read_index(folder: Path) -> Dataset | None:
    """The data set of the index in `folder`; None where there is none of this version. Raises
    `RunFolderError` where the labels are not those that it was made from."""
    path = folder / _INDEX
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["revision"] != _REVISION:
            return None
        _raise_changed(content["labels"], folder)
        parts = [_read_part(folder, part) for part in content["parts"]]
        name, info = content["name"], content["info"]
        skipped, leaks = content["skipped"], content["leaks"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise RunFolderError(f"{path} is damaged ({error!r}); remove it, and it is made again") from error
    files = tuple(folder / path for path in content["labels"])
    return Dataset(name, RecordTable.of(parts), tuple(skipped), info, tuple(leaks), files)


def _write_rows(path: Path, part: RecordPart, rows: np.ndarray) -> None:
    writer = None
    with pa.OSFile(str(path), "wb") as sink:
        for start in range(0, max(1, len(rows)), CHUNK):
            taken = rows[start : start + CHUNK]
            batch = _batch(part.labels.take(taken), part.splits[taken])
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_table(batch)
        assert writer is not None
        writer.close()


def _batch(labels: Labels, splits: np.ndarray) -> pa.Table:
    columns = {
        "name": labels.names,
        "place": labels.places,
        "score": labels.scores,
        "split": splits,
    }
    if labels.files is not labels.names:
        columns["file"] = labels.files
    if labels.stds is not None:
        columns["std"] = labels.stds
    if labels.sets is not None:
        columns["set"] = labels.sets
    for name, block in (("votes", labels.votes), ("attributes", labels.attributes)):
        if block is not None:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
    return pa.table(columns)


def _read_part(folder: Path, part: dict) -> RecordPart:
    table = pa.ipc.open_file(pa.memory_map(str(folder / part["file"]))).read_all()

    def column(name: str) -> np.ndarray | None:
        return table[name].to_numpy() if name in table.column_names else None

    def block(name: str) -> np.ndarray | None:
        if name not in table.column_names:
            return None
        rows = table[name].combine_chunks()
        return rows.flatten().to_numpy().reshape(len(rows), -1)

    names = table["name"]
    labels = Labels(
        root=folder / part["root"],
        names=names,
        files=names if "file" not in table.column_names else table["file"],
        scores=table["score"].to_numpy(),
        places=table["place"].to_numpy(),
        stds=column("std"),
        votes=block("votes"),
        sets=table["set"] if "set" in table.column_names else None,
        attributes=block("attributes"),
        parts=(("row", 0),),
    )
    scale = Scale(**{**part["scale"], "native": tuple(part["scale"]["native"])})
    return RecordPart(part["name"], labels, scale, table["split"].to_numpy(), part["ids"])


def _stored(path: Path, folder: Path) -> str:
    """A path as the index has it: relative where it lies in its folder, which may be moved."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _raise_changed(labels: dict[str, str], folder: Path) -> None:
    for stored, digest in labels.items():
        path = folder / stored
        what = "is gone" if not path.is_file() else "has changed" if _hash(path) != digest else ""
        if what:
            raise RunFolderError(
                f"{path} {what} since the data stage of this run, whose stages must see the same labels. Put it back as it was, "
                f"or start a new run with another --out"
            )
