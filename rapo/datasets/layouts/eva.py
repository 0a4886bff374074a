"""EVA: single ratings from 0 to 10 of AVA's images (Kang et al., 2020).

- `votes_filtered.csv` has image_id, user_id, score and more, separated by "=". Ids are text, and
  appear as "1992.0" as well. Where votes.csv, with all votes, lies beside it, it is left aside.
- `users.csv`, `region_index.csv` and `image_content_category.csv` hold no scores.
- There is no official split. The images are AVA's, of its training and its test list: in a mix with
  AVA they are told by their ids.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, LabelFile
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.files.ratings import rating_statistics
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError

_COLUMNS = ("image_id", "user_id", "score")
_IMAGES = ("images/EVA_together", "EVA_together", "images", "image")
_NO_SCORES = {
    ("image_id", "sort"): "the categories of EVA's images",
    ("id", "age", "region"): "EVA's raters",
}


def _votes(found: Found) -> LabelFile | None:
    files = found.with_columns(*_COLUMNS)
    return next((file for file in files if "filtered" in file.path.stem), files[0] if files else None)


def _refused(found: Found) -> str | None:
    """What a file of EVA without scores is."""
    for columns, words in _NO_SCORES.items():
        if found.path.is_file() and found.files[0].has(*columns) and not found.files[0].has("score"):
            return words
    return None


def _read(found: Found, source: SourceConfig) -> LabelSource:
    file = _votes(found)
    if file is None or file.table is None:
        what = _refused(found)
        raise DataError(
            f"{found.path} holds {what}, no scores; give votes_filtered.csv, or the folder with it"
            if what
            else f"data.path {found.path} holds no table with the columns {', '.join(_COLUMNS)}, as EVA has them"
        )
    own = {name.lower(): name for name in file.table.columns}
    ratings = rating_statistics(file.table, own["image_id"], own["score"], 0, 10)
    names = pa.chunked_array([pc.replace_substring_regex(ratings.frame.names.combine_chunks(), r"\.0$", "")])
    frame = replace(ratings.frame, names=names)
    labels = frame_labels(
        frame, found.image_folder(_IMAGES), ratings.means, stds=ratings.stds, votes=ratings.votes, suffix=".jpg"
    )
    raise_duplicates(file.path, labels)
    return LabelSource(
        name="eva",
        format="eva",
        path=file.path,
        labels=labels,
        split_source="hash",
        native_range=(0.0, 10.0),
        notes=("EVA's images are AVA's: those that AVA trains on must not be tested on",),
        ids="ava",
    )


register(
    Layout(
        name="eva",
        holds="EVA's folder (votes_filtered.csv, separated by =)",
        recognises=lambda found: _votes(found) is not None or _refused(found) is not None,
        read=_read,
    )
)
