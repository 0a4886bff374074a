"""KonIQ-10k: technical quality with votes, spread and an official split (Hosu et al., TIP 2020).

Two files have a column MOS with two meanings, told by the columns beside it:

- `koniq10k_distributions_sets.csv` has a column set, and c1 to c5 as shares of c_total. MOS is on 0
  to 100, SD on 1 to 5.
- `koniq10k_scores_and_distributions.csv` has a column MOS_zscore, which is on 0 to 100. MOS and SD
  are on 1 to 5. It has no split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, LabelFile
from rapo.datasets.files.frame import Frame, read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError

_COUNTS = ("c1", "c2", "c3", "c4", "c5")
_SETS = ("image_name", "mos", "sd", "set", "c_total", *_COUNTS)
_ZSCORE = ("image_name", "mos", "sd", "mos_zscore")
_IMAGES = ("1024x768", "512x384", "images", "image")


def _file(found: Found) -> LabelFile | None:
    return next(iter((*found.with_columns(*_SETS), *found.with_columns(*_ZSCORE))), None)


def _read(found: Found, source: SourceConfig) -> LabelSource:
    file = _file(found)
    if file is None or file.table is None:
        raise DataError(f"data.path {found.path} holds neither of KonIQ-10k's label files")
    table = file.table
    own = {name.lower(): name for name in table.columns}
    with_sets = file.has(*_SETS)
    counted = [own[name] for name in (*_COUNTS, "c_total") if name in own] if file.has(*_COUNTS, "c_total") else []
    frame = read_frame(
        table, own["image_name"], [own["mos"], *counted], optional=[own["sd"]], words=[own["set"]] if with_sets else []
    )
    labels = frame_labels(
        frame,
        found.image_folder(_IMAGES),
        frame.numbers[own["mos"]],
        stds=frame.numbers[own["sd"]],
        votes=_votes(frame, counted) if counted else None,
        splits=own["set"] if with_sets else None,
        suffix=".jpg",
    )
    raise_duplicates(file.path, labels)
    return LabelSource(
        name="koniq",
        format="koniq",
        path=file.path,
        labels=labels,
        split_source=f"column {own['set']}" if with_sets else "hash",
        native_range=(0.0, 100.0) if with_sets else (1.0, 5.0),
        std_range=(1.0, 5.0),
        ids="koniq",
    )


def _votes(frame: Frame, counted: list[str]) -> NDArray[np.int32]:
    """The votes 1 to 5: shares times their number, or the counts themselves."""
    counts = np.stack([frame.numbers[name] for name in counted[:5]], axis=1)
    total = frame.numbers[counted[5]][:, None]
    return np.rint(counts * total if np.all(counts.sum(axis=1) < 1.5) else counts).astype(np.int32)


register(
    Layout(
        name="koniq",
        holds="KonIQ-10k's folder (koniq10k_distributions_sets.csv, or koniq10k_scores_and_distributions.csv)",
        recognises=lambda found: _file(found) is not None,
        read=_read,
    )
)
