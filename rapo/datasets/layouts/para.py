"""PARA: scores from 1 to 5 with counts and spread (Yang et al., CVPR 2022).

- `annotation/PARA-GiaaTrain.csv` and `PARA-GiaaTest.csv` name sessionId and imageName, nine counts
  `aestheticScore_1.0` to `_5.0`, the mean and the std. The file's name says the split.
- Images are `imgs/<sessionId>/<imageName>`. A name is unique within its session only, so that
  session and name together name an image.
- `PARA-Images.csv` has a row per user and image and is not read.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, split_of_name
from rapo.datasets.files.frame import read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.labels import Labels, joined
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError

_COLUMNS = ("imagename", "sessionid", "aestheticscore_mean")
_LEVELS = tuple(f"aestheticscore_{1 + half / 2:.1f}" for half in range(9))
_IMAGES = ("imgs", "images")


def _read(found: Found, source: SourceConfig) -> LabelSource:
    files = found.with_columns(*_COLUMNS)
    if not files:
        raise DataError(
            f"data.path {found.path} holds no table with the columns {', '.join(_COLUMNS)}, as PARA has them"
        )
    parts = []
    for file in files:
        assert file.table is not None
        labels = _read_file(file.table, found)
        split = split_of_name(file.path)
        parts.append((file.path.name, labels if split is None else labels.with_splits(split)))
    labels = joined(parts)
    raise_duplicates(found.path, labels)
    return LabelSource(
        name="para",
        format="para",
        path=found.path,
        labels=labels,
        split_source="hash" if labels.splits is None else ", ".join(file.path.name for file in files),
        native_range=(1.0, 5.0),
        ids="para",
        files=tuple(file.path for file in files),
    )


def _read_file(table: RawTable, found: Found) -> Labels:
    own = {name.lower(): name for name in table.columns}
    mean, std = own["aestheticscore_mean"], own.get("aestheticscore_std")
    levels = [own[level] for level in _LEVELS if level in own]
    frame = read_frame(
        table,
        own["imagename"],
        [mean, *levels],
        optional=[std] if std else [],
        words=[own["sessionid"]],
        fix="A row holds imageName, sessionId, nine counts, mean and std.",
    )
    sessions = frame.words[own["sessionid"]].combine_chunks()
    names = pc.binary_join_element_wise(sessions, frame.names.combine_chunks(), pa.scalar("/", pa.large_string()))
    frame = replace(frame, names=pa.chunked_array([names]))
    votes = None
    if len(levels) == len(_LEVELS):
        votes = np.rint(np.stack([frame.numbers[level] for level in levels], axis=1)).astype(np.int32)
    return frame_labels(
        frame, found.image_folder(_IMAGES), frame.numbers[mean], stds=frame.numbers[std] if std else None, votes=votes
    )


register(
    Layout(
        name="para",
        holds="PARA's folder (annotation/PARA-GiaaTrain.csv, PARA-GiaaTest.csv, imgs/<session>/)",
        recognises=lambda found: bool(found.with_columns(*_COLUMNS)),
        read=_read,
    )
)
