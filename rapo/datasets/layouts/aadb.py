"""AADB: scores from 0 to 1, means of about five raters (Kong et al., ECCV 2016).

- `imgListFiles_label/imgList{Train,Validation,Test,TestNew}Regression_score.txt` have a name and a
  score a line, without a header. The files of single attributes beside them are not read. TestNew
  is the test list where it is there, as in the field.
- `AADBinfo.mat` has names and scores of train and test, but no validation list.
- There are no votes and no spreads.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found, LabelFile, split_of_name
from rapo.datasets.files.frame import read_frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.labels import Labels, joined, string_column
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_duplicates
from rapo.errors import DataError
from rapo.records import Split
from rapo.util.brief import brief_error

_NAME = re.compile(r"^(?:.*/)?farm\d+_\d+_\d+_[0-9a-z]+_b\.jpg$", re.IGNORECASE)
_IMAGES = ("datasetImages_originalSize", "datasetImages_warp256", "images")
_LISTS: tuple[tuple[str, str, Split], ...] = (
    ("trainNameList", "trainScore", "train"),
    ("testNameList", "testScore", "test"),
)


def _lists(found: Found) -> list[LabelFile]:
    """The files of scores: names of AADB, and numbers from 0 to 1."""
    lists = []
    for file in found.files:
        table = file.table
        if table is None or not table.without_header or len(table.columns) != 2:
            continue
        rows = table.head(20)
        if rows and all(_NAME.match(str(row["1"])) for row in rows) and _is_score(file.path):
            lists.append(file)
    new = [file for file in lists if "TestNew" in file.path.name]
    return [file for file in lists if not new or file in new or split_of_name(file.path) != "test"]


def _is_score(path: Path) -> bool:
    """Attributes have files of the same form, which end with the attribute's name."""
    return "Regression_" not in path.stem or path.stem.endswith("_score")


def _info(found: Found) -> Path | None:
    return next((file.path for file in found.files if file.problem == "a MATLAB file"), None)


def _read(found: Found, source: SourceConfig) -> LabelSource:
    root = found.image_folder(_IMAGES)
    lists, info = _lists(found), _info(found)
    if lists:
        path, labels = found.path, joined([_read_list(file, root) for file in lists])
        split_source = ", ".join(file.path.name for file in lists)
    elif info is not None:
        path, labels = info, _read_info(info, root)
        split_source = info.name
    else:
        raise DataError(f"data.path {found.path} holds neither AADB's lists of scores nor AADBinfo.mat")
    raise_duplicates(path, labels)
    return LabelSource(
        name="aadb",
        format="aadb",
        path=path,
        labels=labels,
        split_source="hash" if labels.splits is None else split_source,
        native_range=(0.0, 1.0),
        ids="aadb",
        files=tuple(file.path for file in lists),
    )


def _read_list(file: LabelFile, root: Path) -> tuple[str, Labels]:
    assert file.table is not None
    frame = read_frame(file.table, "1", ["2"])
    labels = frame_labels(frame, root, frame.numbers["2"])
    split = split_of_name(file.path)
    return file.path.name, labels if split is None else labels.with_splits(split)


def _read_info(path: Path, root: Path) -> Labels:
    # Every reader of labels imports all layouts, and SciPy takes tens of megabytes.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except (MatReadError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a readable MATLAB file: {brief_error(error)}") from error
    parts = []
    for names_key, scores_key, split in _LISTS:
        if names_key not in content or scores_key not in content:
            raise DataError(f"{path} has no {names_key} and {scores_key}, as AADBinfo.mat has them")
        names = [str(item.item()) for item in content[names_key].ravel()]
        scores = np.asarray(content[scores_key], np.float64).ravel()
        if len(names) != len(scores):
            raise DataError(f"{path}: {len(names)} names in {names_key}, but {len(scores)} scores in {scores_key}")
        column = string_column(names)
        places = np.arange(1, len(names) + 1)
        labels = Labels(root, column, column, scores, places, parts=(("item", 0),))
        parts.append((names_key, labels.with_splits(split)))
    return joined(parts)


register(
    Layout(
        name="aadb",
        holds="AADB's folder (imgListFiles_label/imgListTrainRegression_score.txt, ..., or AADBinfo.mat)",
        recognises=lambda found: bool(_lists(found)) or _info(found) is not None,
        read=_read,
    )
)
