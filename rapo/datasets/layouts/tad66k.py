"""TAD66K: images with a mean score from 1 to 10, by theme (He et al., IJCAI 2022).

- `merge/train.csv` and `merge/test.csv` hold image and score of all themes;
  `unmerge/{train,test}/<theme>.csv` hold the same by theme.
- merge and unmerge are split differently: 478 images of merge's test list are trained on by
  unmerge. Where both are there, merge is read; unmerge alone leaves out what merge tests.
- There is no spread. The scores are the only number that the files have, so that a file alone
  reads as a table; the layout is the folders called merge and unmerge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, LabelFile, split_of_name
from rapo.datasets.files.frame import read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.labels import SPLITS, Labels, joined, strings
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError

_COLUMNS = ("image", "score")
_IMAGES = ("TAD66K", "images", "image")


def _tables(found: Found) -> list[LabelFile]:
    return [
        file
        for file in found.with_columns(*_COLUMNS)
        if file.table is not None and file.table.kind == "text" and len(file.table.columns) == 2
    ]


def _merged(tables: list[LabelFile]) -> list[LabelFile]:
    """train.csv and test.csv of one folder."""
    for folder in {file.path.parent for file in tables}:
        here = [file for file in tables if file.path.parent == folder]
        if (
            sorted(str(split_of_name(file.path)) for file in here) == ["test", "train"]
            and "unmerge" not in folder.parts
        ):
            return here
    return []


def _by_theme(tables: list[LabelFile]) -> list[LabelFile]:
    """The files of themes in folders train and test."""
    return [file for file in tables if split_of_name(Path(file.path.parent.name)) in ("train", "test")]


def _recognises(found: Found) -> bool:
    if found.path.is_file():
        return False
    tables = _tables(found)
    if _merged(tables):
        return found.path.name == "merge" or any(file.path.parent.name == "merge" for file in _merged(tables))
    themes = [file for file in _by_theme(tables) if "unmerge" in file.path.parts]
    return {split_of_name(Path(file.path.parent.name)) for file in themes} == {"train", "test"}


def _read(found: Found, source: SourceConfig) -> LabelSource:
    tables = _tables(found)
    files, above = (_merged(tables), 0)
    if not files and not found.path.is_file():
        files, above = _by_theme(tables), 1
    files = files or tables
    if not files:
        raise DataError(f"data.path {found.path} holds no table with the columns image and score, as TAD66K has them")
    root = found.image_folder(_IMAGES)
    parts = []
    for file in files:
        split = split_of_name(Path(file.path.parent.name) if above else file.path)
        parts.append((str(file.path.relative_to(found.folder)), _read_file(file, root, split)))
    labels = joined(parts)
    notes: list[str] = []
    if above:
        labels, notes = _without_merged_test(labels, found)
    raise_duplicates(found.path, labels)
    return LabelSource(
        name="tad66k",
        format="tad66k",
        path=found.path,
        labels=labels,
        split_source="hash" if labels.splits is None else "unmerge's folders" if above else "merge's files",
        native_range=(1.0, 10.0),
        notes=tuple(notes),
        ids="tad66k",
        files=tuple(file.path for file in files),
    )


def _read_file(file: LabelFile, root: Path, split: str | None) -> Labels:
    assert file.table is not None
    frame = read_frame(file.table, "image", ["score"])
    labels = frame_labels(frame, root, frame.numbers["score"])
    return labels if split is None else labels.with_splits(SPLITS[SPLITS.index(split)])


def _without_merged_test(labels: Labels, found: Found) -> tuple[Labels, list[str]]:
    """The rows without the training images that merge's test list holds, where that lies beside."""
    beside = Found(found.folder.parent / "merge") if found.folder.name == "unmerge" else None
    listed = [file for file in _merged(_tables(beside)) if split_of_name(file.path) == "test"] if beside else []
    if not listed or listed[0].table is None:
        return labels, [
            "unmerge is split by theme: 478 of its training images are in merge/test.csv. Do not test on merge what was "
            "trained on unmerge"
        ]
    tested = set(strings(read_frame(listed[0].table, "image", ["score"]).names))
    splits = labels.splits
    assert splits is not None
    keep = np.array(
        [name not in tested or SPLITS[code] == "test" for name, code in zip(strings(labels.names), splits, strict=True)]
    )
    left_out = int((~keep).sum())
    if not left_out:
        return labels, []
    return labels.take(np.flatnonzero(keep)), [f"{left_out} training images are left out: merge/test.csv holds them"]


register(
    Layout(
        name="tad66k",
        holds="TAD66K's folder (merge/train.csv, merge/test.csv, or unmerge/{train,test}/<theme>.csv)",
        recognises=_recognises,
        read=_read,
    )
)
