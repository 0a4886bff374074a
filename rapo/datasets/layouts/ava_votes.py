"""AVA's votes as CSV: image_id, score2 to score11 (the counts of the votes 1 to 10) and tags, as
TANet ships them.

The rows are a selection of AVA. Which of them are in AVA's official test list the file does not
say; its own split, by the names of files, is another one.
"""

from __future__ import annotations

import numpy as np

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, split_of_name
from rapo.datasets.files.frame import read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.labels import joined
from rapo.datasets.layout import Layout, register
from rapo.datasets.layouts.ava import holds_ava
from rapo.datasets.rows import LabelSource, raise_bad_rows, raise_duplicates
from rapo.errors import DataError

_COUNTS = tuple(f"score{number}" for number in range(2, 12))
_COLUMNS = ("image_id", *_COUNTS)
_IMAGES = ("images", "image")


def _read(found: Found, source: SourceConfig) -> LabelSource:
    files = found.with_columns(*_COLUMNS)
    if not files:
        raise DataError(f"data.path {found.path} holds no table with the columns image_id and score2 to score11")
    root = found.image_folder(_IMAGES)
    parts = []
    for file in files:
        assert file.table is not None
        own = {name.lower(): name for name in file.table.columns}
        frame = read_frame(file.table, own["image_id"], [own[name] for name in _COUNTS])
        votes = np.stack([frame.numbers[own[name]] for name in _COUNTS], axis=1)
        total = votes.sum(axis=1)
        wrong = np.flatnonzero((votes < 0).any(axis=1) | (votes != np.rint(votes)).any(axis=1) | (total == 0))
        raise_bad_rows(
            file.path,
            (f"line {frame.places[row]}: the counts are no votes" for row in wrong),
            "Correct or remove the rows.",
        )
        values = np.arange(1, 11)
        means = votes @ values / total
        stds = np.sqrt((votes * np.square(values - means[:, None])).sum(axis=1) / total)
        labels = frame_labels(frame, root, means, stds=stds, votes=votes.astype(np.int32), suffix=".jpg")
        split = split_of_name(file.path)
        parts.append((file.path.name, labels if split is None else labels.with_splits(split)))
    labels = joined(parts)
    raise_duplicates(found.path, labels)
    return LabelSource(
        name="ava",
        format="ava-votes",
        path=found.path,
        labels=labels,
        split_source="hash" if labels.splits is None else ", ".join(name for name, _ in parts),
        native_range=(1.0, 10.0),
        notes=("These rows of AVA are not split as AVA is: its official test list may be among them",),
        ids="ava",
        files=tuple(file.path for file in files),
    )


register(
    Layout(
        name="ava-votes",
        holds="AVA's votes as CSV (image_id, score2, ..., score11)",
        # A copy beside AVA.txt is left aside.
        recognises=lambda found: bool(found.with_columns(*_COLUMNS)) and not holds_ava(found),
        read=_read,
    )
)
