"""SPAQ: smartphone photographs with a mean score (Fang et al., CVPR 2020).

- `MOS and Image attribute scores.xlsx` has Image name, MOS and five attributes from 0 to 100. CSV
  copies of it exist on 0 to 10, split by the number of the file.
- The scale is told by the largest of all the numbers: above 10 it is 0 to 100. At 5 and below it is
  not told, because copies on 1 to 5 exist too.
"""

from __future__ import annotations

import numpy as np

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, split_of_name
from rapo.datasets.files.frame import Frame, read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.labels import joined
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError

_ATTRIBUTES = ("brightness", "colorfulness", "contrast", "noisiness", "sharpness")
_COLUMNS = ("mos", *_ATTRIBUTES)
_IMAGE = ("image name", "image_name", "image_id", "image")
_IMAGES = ("TestImage", "images", "image")


def _read(found: Found, source: SourceConfig) -> LabelSource:
    files = found.with_columns(*_COLUMNS)
    if not files:
        raise DataError(
            f"data.path {found.path} holds no table with the columns {', '.join(_COLUMNS)}, as SPAQ has them"
        )
    root = found.image_folder(_IMAGES)
    parts, largest = [], 0.0
    for file in files:
        assert file.table is not None
        own = {name.lower(): name for name in file.table.columns}
        image = next((own[name] for name in _IMAGE if name in own), None)
        if image is None:
            raise DataError(f"{file.path} has no column of image names, such as 'Image name'")
        frame = read_frame(file.table, image, [own[name] for name in _COLUMNS])
        largest = max(largest, _largest(frame))
        labels = frame_labels(frame, root, frame.numbers[own["mos"]], suffix=".jpg")
        split = split_of_name(file.path)
        parts.append((file.path.name, labels if split is None else labels.with_splits(split)))
    labels = joined(parts)
    raise_duplicates(found.path, labels)
    split_source = "hash" if labels.splits is None else ", ".join(file.path.name for file in files)
    return LabelSource(
        name="spaq",
        format="spaq",
        path=found.path,
        labels=labels,
        split_source=split_source,
        native_range=(0.0, 100.0) if largest > 10 else (0.0, 10.0) if largest > 5 else None,
        notes=() if labels.splits is None else (f"SPAQ has no official split; this one is that of {split_source}",),
        ids="spaq",
        files=tuple(file.path for file in files),
    )


def _largest(frame: Frame) -> float:
    return max(float(np.max(column)) for column in frame.numbers.values())


register(
    Layout(
        name="spaq",
        holds="SPAQ's folder (MOS and Image attribute scores.xlsx, or CSV with its columns; TestImage/)",
        recognises=lambda found: bool(found.with_columns(*_COLUMNS)),
        read=_read,
    )
)
