"""FLICKR-AES: a score from 0.2 to 1 per image, and single ratings from 1 to 5 (Ren et al., ICCV
2017).

- `FLICKR-AES_image_score.txt` has a name and a score a line, without a header; some lines begin
  with a space.
- `FLICKR-AES_image_labeled_by_each_worker.csv` has worker, imagePair and score, padded by spaces.
  It gives the spread; alone it gives the scores too, as means over 5.
- The split by worker (35,263 to 4,737 images) is not among the files: without a list of the test
  images, as a source of its own, the split is by hash.
"""

from __future__ import annotations

import re

import numpy as np

from rapo.arrays import Floats
from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, LabelFile
from rapo.datasets.files.frame import Frame, read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.files.ratings import RatingStatistics, rating_statistics
from rapo.datasets.labels import strings
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError

#: Flickr's farm, server, photo and secret. AADB's names end with "_b" behind these.
_NAME = re.compile(r"^(?:.*/)?farm\d+_\d+_\d+_[0-9a-z]+\.jpg$", re.IGNORECASE)
_WORKERS = ("worker", "imagepair", "score")
_IMAGES = ("40K", "images", "image")
_TOP = 5.0


def _scores(found: Found) -> LabelFile | None:
    for file in found.files:
        if file.table is not None and file.table.without_header and len(file.table.columns) == 2:
            rows = file.table.head(20)
            if rows and all(_NAME.match(str(row["1"])) for row in rows):
                return file
    return None


def _read(found: Found, source: SourceConfig) -> LabelSource:
    scores, workers = _scores(found), next(iter(found.with_columns(*_WORKERS)), None)
    if scores is None and workers is None:
        raise DataError(f"data.path {found.path} holds none of FLICKR-AES's label files")
    ratings = None if workers is None else _ratings(workers)
    if scores is not None and scores.table is not None:
        path, frame = scores.path, read_frame(scores.table, "1", ["2"])
        values, stds = frame.numbers["2"], None if ratings is None else _stds(frame, ratings)
    else:
        assert ratings is not None
        path, frame = ratings.frame.table.path, ratings.frame
        values, stds = ratings.means / _TOP, ratings.stds / _TOP
    labels = frame_labels(frame, found.image_folder(_IMAGES), values, stds=stds)
    raise_duplicates(path, labels)
    return LabelSource(
        name="flickr-aes",
        format="flickr-aes",
        path=path,
        labels=labels,
        split_source="hash",
        native_range=(1 / _TOP, 1.0),
        ids="flickr-aes",
        files=tuple(file.path for file in (scores, workers) if file is not None),
    )


def _ratings(file: LabelFile) -> RatingStatistics:
    assert file.table is not None
    own = {name.lower(): name for name in file.table.columns}
    return rating_statistics(file.table, own["imagepair"], own["score"], 1, 5)


def _stds(frame: Frame, ratings: RatingStatistics) -> Floats:
    """Each image's spread, NaN for one that nobody rated."""
    known = dict(zip(strings(ratings.frame.names), ratings.stds / _TOP, strict=True))
    return np.array([known.get(name, np.nan) for name in strings(frame.names)])


register(
    Layout(
        name="flickr-aes",
        holds="FLICKR-AES's folder (FLICKR-AES_image_score.txt, the ratings by worker, 40K/)",
        recognises=lambda found: _scores(found) is not None or bool(found.with_columns(*_WORKERS)),
        read=_read,
    )
)
