"""Frame to labels: gives the columns of a table their meaning.

Absolute image names stay absolute as files; as names they are relative to the folder of images, so
that a set moves with its folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.files.found import split_word
from rapo.datasets.files.frame import FIX, Frame
from rapo.datasets.labels import CHUNK, NO_SPLIT, SPLITS, Labels
from rapo.datasets.rows import raise_bad_rows
from rapo.util.brief import brief


def frame_labels(
    frame: Frame,
    root: Path,
    scores: Floats,
    *,
    stds: Floats | None = None,
    votes: NDArray[np.int32] | None = None,
    splits: str | None = None,
    sets: str | None = None,
    suffix: str = "",
) -> Labels:
    """The rows of a frame as labels. `splits` and `sets` are its columns of words; `suffix` ends
    the file of a name without an ending. Raises `DataError` for negative spreads and words that are
    no split."""
    path, word = frame.table.path, frame.table.word
    if stds is not None:
        wrong = np.flatnonzero(stds < 0)
        raise_bad_rows(path, [f"{word} {frame.places[row]}: std {stds[row]:g} is negative" for row in wrong], FIX)
        stds = None if np.isnan(stds).all() else stds
    names, files = _names_and_files(frame.names, root)
    if suffix:
        bare = pc.invert(pc.match_substring_regex(files, r"\.[A-Za-z]{3,4}$"))
        files = pc.if_else(bare, pc.binary_join_element_wise(files, *map(_scalar, (suffix, ""))), files)
    return Labels(
        root=root,
        names=names,
        files=files,
        scores=scores,
        places=frame.places,
        stds=stds,
        votes=votes,
        splits=None if splits is None else _split_codes(frame, splits),
        sets=None if sets is None else frame.words[sets],
        parts=((word, 0),),
    )


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())


def _names_and_files(names: pa.ChunkedArray, root: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    absolute = pc.starts_with(names, "/")
    if not pc.any(absolute).as_py():
        return names, names
    # The root may be given relative to where the command runs.
    base = os.path.abspath(root)
    relative = [
        name
        if not name.startswith("/")
        else os.path.relpath(name, base)
        if Path(name).is_relative_to(base)
        else name[1:]
        for name in names.to_pylist()
    ]
    return pa.chunked_array([pa.array(relative, pa.large_string())]), names


def _split_codes(frame: Frame, column: str) -> NDArray[np.int8]:
    found = np.empty(len(frame), np.int8)
    for start in range(0, len(frame), CHUNK):
        words = frame.words[column].slice(start, CHUNK).combine_chunks().dictionary_encode()
        splits = [split_word(value) for value in words.dictionary.to_pylist()]
        codes = np.array([NO_SPLIT if split is None else SPLITS.index(split) for split in splits], np.int8)
        found[start : start + CHUNK] = codes[words.indices.to_numpy(zero_copy_only=False)]
    raise_bad_rows(
        frame.table.path,
        [
            f"{frame.table.word} {frame.places[row]}: split {brief(frame.words[column][int(row)].as_py())} is none of train, "
            "validation, test"
            for row in np.flatnonzero(found == NO_SPLIT)
        ],
        f"Correct the rows, or leave the column {column!r} out by data.columns.split = ''.",
    )
    return found
