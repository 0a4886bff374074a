"""Given critiques: those of a file in place of a teacher's, such as the public AesCoT-3K.

- A row is a conversation, as in LLaMA-Factory and ShareGPT: an image, and a last answer
  `<think>critique</think><answer>score</answer>` with a score in [0, 1].
- The file brings its images and scores along: the run's own training images are not asked about.
- An image that the run holds back for validation or test is left out, as in training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rapo.config import DataConfig, ImageConfig, TeacherConfig
from rapo.datasets.contamination import find_leaks
from rapo.datasets.files.found import Found
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.labels import SPLITS
from rapo.datasets.layouts.conversations import form_of
from rapo.datasets.record_table import RecordTable
from rapo.datasets.sources import read_parts
from rapo.errors import DataError, ImageError
from rapo.images.decode import check_image_file

_CRITIQUE = re.compile(r"<think>\s*(.*?)\s*</think>\s*<answer>", re.DOTALL | re.IGNORECASE)
_TRAIN = SPLITS.index("train")
#: Images that are looked for before a run.
_SAMPLE = 32


@dataclass(frozen=True, slots=True)
class Given:
    """The images of a file with their scores, and the critique of each; None where its row has
    none."""

    records: RecordTable
    texts: list[str | None]


def read_given(settings: TeacherConfig) -> Given:
    """The rows of `settings.critiques`. Raises `DataError` for a file of another form, and for a
    score that is missing or not in [0, 1]."""
    path = settings.critiques
    if path is None:
        raise DataError("aescot.teacher.critiques is not set: give a file of critiques")
    source = DataConfig(path=path, images=settings.images, format="conversations", role="train", score_range=(0.0, 1.0))
    try:
        (part,) = read_parts(source, 0, None)
    except DataError as error:
        words = str(error).replace("data.path", "the file").replace("data.score_range", "the range")
        raise DataError(f"aescot.teacher.critiques: {words}") from error
    # Without this some rows would be set aside for validation.
    records = RecordTable.of([replace(part.records, splits=np.full(len(part.records.labels), _TRAIN, np.int8))])
    table = Found(path).files[0].table
    assert table is not None, path
    texts = list(_texts(table))
    if not any(texts):
        raise DataError(
            f"aescot.teacher.critiques: no row of {path} has an answer <think>critique</think><answer>score</answer>; rows "
            "without critiques are scored images, for data.path"
        )
    return Given(records, texts)


def given_records(settings: TeacherConfig, held: RecordTable) -> tuple[RecordTable, int]:
    """The file's images with their scores, without those that the validation and test records of
    `held` show too; and how many these are."""
    records = read_given(settings).records
    later = held.take(held.splits != _TRAIN)
    both = RecordTable(
        (*records.parts, *later.parts),
        np.concatenate([records.part, later.part + len(records.parts)]).astype(np.int32),
        np.concatenate([records.row, later.row]),
    )
    clean = np.ones(len(records), bool)
    clean[[leak.row for leak in find_leaks(both) if leak.row < len(records)]] = False
    return records.take(clean), int((~clean).sum())


def check_given(settings: TeacherConfig, limits: ImageConfig, share: float) -> None:
    """Raise `DataError` where the file cannot be read, or more than a `share` of the images looked
    at cannot be used."""
    records = read_given(settings).records
    some = np.unique(np.linspace(0, len(records) - 1, min(len(records), _SAMPLE)).astype(np.int64))
    problems = []
    for record in map(int, some):
        try:
            check_image_file(records.path(record), limits, decode=False)
        except ImageError as error:
            problems.append(str(error))
    if len(problems) > share * len(some):
        raise DataError(
            f"aescot.teacher.critiques: {len(problems)} of {len(some)} images that were looked at cannot be used, more than the "
            f"share data.max_unusable = {share:g}; for example: {problems[0][:200]}. aescot.teacher.images is the folder that "
            "relative names are looked up in"
        )


def _texts(table: RawTable) -> Iterator[str | None]:
    """The critique in each row's last turn."""
    form = form_of(table)
    assert form is not None, table.path
    turns, key, _ = form
    for batch in table.rows([turns]):
        cells = batch.cells[turns]
        for cell in cells if isinstance(cells, list) else cells.to_pylist():
            turn = cell[-1] if isinstance(cell, list) and cell else None
            answer = turn.get(key) if isinstance(turn, dict) else None
            match = _CRITIQUE.search(answer) if isinstance(answer, str) else None
            yield (" ".join(match[1].split()) or None) if match else None
