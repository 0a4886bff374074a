"""Conversation rows: an image, a question and an answer with the score, as JSON or JSON Lines.

- Aes-R1 and LLaMA-Factory: `messages` with role and content, and `images`, a path or a list of one.
- VisualQuality-R1: `conversations` with from and value, `image` and `dataset_name`.
- The score is the last answer: a number, or the number in <answer> tags. The question's words about
  the scale are not believed: Aes-R1's example asks for 1 to 5 and answers on 0 to 1.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rapo.config import SourceConfig
from rapo.datasets.files.cells import image_names, is_number, texts
from rapo.datasets.files.found import Found
from rapo.datasets.files.frame import Frame
from rapo.datasets.files.frame_labels import frame_labels
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.layout import Layout, register
from rapo.datasets.rows import LabelSource, raise_bad_rows, raise_duplicates
from rapo.errors import DataError

_FORMS = (("messages", "content", ("images", "image")), ("conversations", "value", ("image", "images")))
_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>\s*$", re.DOTALL | re.IGNORECASE)
_SET = "dataset_name"


def form_of(table: RawTable | None) -> tuple[str, str, str] | None:
    """The columns of turns and of the image, and the key of a turn's text."""
    for turns, key, images in _FORMS:
        for image in images:
            if table is not None and turns in table.columns and image in table.columns:
                return turns, key, image
    return None


def _recognises(found: Found) -> bool:
    return found.path.is_file() and form_of(found.files[0].table) is not None


def _read(found: Found, source: SourceConfig) -> LabelSource:
    table = found.files[0].table if found.path.is_file() else None
    form = form_of(table)
    if table is None or form is None:
        raise DataError(f"data.path {found.path} holds no rows of messages and images, or of conversations and image")
    turns, key, image = form
    wanted = [turns, image, *([_SET] if _SET in table.columns else [])]
    places: list[NDArray[np.int64]] = []
    names: list[pa.Array] = []
    sets: list[pa.Array] = []
    scores: list[float] = []
    problems: list[str] = []
    for batch in table.rows(wanted):
        column, bad = image_names(batch.cells[image])
        cells = batch.cells[turns]
        for row, cell in enumerate(cells if isinstance(cells, list) else cells.to_pylist()):
            try:
                scores.append(_score(cell, key))
            except ValueError as error:
                scores.append(np.nan)
                bad.setdefault(row, str(error))
        problems += [f"{table.word} {batch.places[row]}: {bad[row]}" for row in sorted(bad)]
        places.append(batch.places)
        names.append(column)
        if _SET in wanted:
            sets.append(texts(batch.cells[_SET]))
    if not places:
        raise DataError(f"{table.path} holds no rows; each needs an image, and a number as its last answer")
    raise_bad_rows(table.path, problems, "Each row needs an image, and a number as its last answer.")
    words = {_SET: pa.chunked_array(sets)} if sets else {}
    frame = Frame(table, np.concatenate(places), pa.chunked_array(names), {}, words)
    labels = frame_labels(frame, found.images or table.path.parent, np.array(scores))
    labels = replace(labels, sets=words.get(_SET))
    raise_duplicates(table.path, labels)
    return LabelSource(
        name=table.path.stem,
        format="conversations",
        path=table.path,
        labels=labels,
        split_source="hash",
    )


def _score(cell: object, key: str) -> float:
    """The score in a row's last turn."""
    turn = cell[-1] if isinstance(cell, list) and cell else None
    answer = turn.get(key) if isinstance(turn, dict) else None
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return float(answer)
    if not isinstance(answer, str):
        raise ValueError(f"the last turn has no {key!r}")
    match = _ANSWER.search(answer)
    text = (match[1] if match else answer).strip()
    if not is_number(text):
        raise ValueError(f"the last answer {text[:40]!r} is not a number; level words are no scores")
    return float(text)


register(
    Layout(
        name="conversations",
        holds="rows of messages and images (Aes-R1, LLaMA-Factory), or of conversations and image (VisualQuality-R1)",
        recognises=_recognises,
        read=_read,
    )
)
