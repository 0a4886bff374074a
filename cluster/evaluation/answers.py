"""AnswerFile: the answers of one model for one test set, kept so that none is asked for twice.

- While a model answers, each answer is appended to `<file>.partial.jsonl`. When all are there the
  Parquet file appears whole, and the partial one goes, unless it has to keep the answers for images
  that this time were not asked for.
- An answer is used again for the same image (by its bytes) under the same key, which holds model,
  readout and all settings that an answer depends on. Human scores are never taken from the file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from cluster.files.atomic import write_atomic
from cluster.files.jsonl import append_jsonl, read_jsonl
from rapo.evaluation.figures import Predicted
from rapo.evaluation.sets import EvalSet
from rapo.records import Prediction

_KEY = b"rapo.key"


@dataclass(frozen=True, slots=True)
class Answer:
    """An image's answer. `digest` is of the image's bytes; without a `score` there is a
    `reason`."""

    uid: str
    digest: str
    score: float | None
    text: str
    reason: str | None
    std: float | None
    forced: bool

    def prediction(self, dataset: str, target: float, readout: str) -> Prediction:
        return Prediction(
            self.uid,
            dataset,
            target,
            self.score,
            self.text,
            self.reason,
            readout,
            std=self.std,
            forced=self.forced,
        )


_ANSWER = TypeAdapter(Answer)
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("uid", "dataset", "image", "digest")),
        *((name, pa.float64()) for name in ("target", "score", "native_target", "native_score", "std")),
        ("forced", pa.bool_()),
        *((name, pa.string()) for name in ("reason", "text", "readout", "model")),
    ]
)


class AnswerFile:
    """`path` is the Parquet file. `key` holds what an answer depends on; answers under another key
    are not used, and `outdated` counts them."""

    def __init__(self, path: Path, key: Mapping[str, object], one: EvalSet, digests: Sequence[str]) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial.jsonl")
        self._key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self._set = one
        self._digests = dict(zip((record.uid for record in one.records), digests, strict=True))
        self._answers: dict[str, Answer] = {}
        self._others: dict[str, Answer] = {}
        self.outdated = 0
        for stored, answer in (*self._whole(), *self._appended()):
            if stored == self._key and self._digests.get(answer.uid) == answer.digest:
                self._answers[answer.uid] = answer
            elif stored == self._key and answer.uid not in self._digests:
                self._others[answer.uid] = answer
            elif stored != self._key:
                self.outdated += 1

    @property
    def known(self) -> int:
        """The number of images that have an answer."""
        return len(self._answers)

    def missing(self) -> list[int]:
        """The images of the set that have no answer yet, as indices."""
        return [index for index, record in enumerate(self._set.records) if record.uid not in self._answers]

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Keep new answers."""
        for one in predictions:
            answer = Answer(one.uid, self._digests[one.uid], one.score, one.text, one.reason, one.std, one.forced)
            self._answers[one.uid] = answer
        append_jsonl(self._partial, self._line([self._answers[one.uid] for one in predictions]))

    def finish(self, readout: str, model: str) -> Predicted:
        """Write the Parquet file, and return all answers in the set's order."""
        predictions = [
            self._answers[record.uid].prediction(record.dataset, record.score, readout) for record in self._set.records
        ]
        if self._others:  # a sample of the set: the answers for the rest are kept for the next time
            line = self._line([*self._others.values(), *self._answers.values()])
            write_atomic(self._partial, json.dumps(line) + "\n")
        write_predictions(self._path, self._set, predictions, model, self._key, self._digests)
        if not self._others:
            self._partial.unlink(missing_ok=True)
        return Predicted(predictions)

    def _line(self, answers: Sequence[Answer]) -> dict[str, object]:
        return {"answers": [{"key": self._key, **asdict(answer)} for answer in answers]}

    def _whole(self) -> list[tuple[str, Answer]]:
        """The answers of a finished file."""
        if not self._path.is_file():
            return []
        try:
            table = pq.read_table(self._path)
            key = (table.schema.metadata or {}).get(_KEY, b"").decode()
            return [(key, _ANSWER.validate_python(row)) for row in table.to_pylist()]
        except (pa.ArrowException, ValidationError):
            return []  # damaged, or by another version: all is asked again

    def _appended(self) -> list[tuple[str, Answer]]:
        """The answers of an unfinished one."""
        found = []
        for line in read_jsonl(self._partial):
            rows = line.get("answers")
            for row in rows if isinstance(rows, list) else ():
                try:
                    found.append((str(row["key"]) if isinstance(row, dict) else "", _ANSWER.validate_python(row)))
                except (ValidationError, KeyError):
                    continue  # torn: it is asked again
        return found


def write_predictions(
    path: Path,
    one: EvalSet,
    predictions: Sequence[Prediction],
    model: str,
    key: str = "",
    digests: Mapping[str, str] | None = None,
) -> None:
    """Write predictions for the records of a set, in their order, with human and predicted score on
    [0, 1] and on the set's own scale."""
    scale, rows = one.scale, []
    for record, made in zip(one.records, predictions, strict=True):
        native = None if made.score is None else scale.offset + made.score * scale.width
        rows.append(
            {
                "uid": record.uid,
                "dataset": record.dataset,
                "image": None if record.path is None else str(record.path),
                "digest": (digests or {}).get(record.uid),
                "target": record.score,
                "score": made.score,
                "native_target": record.native_score,
                "native_score": native,
                "std": made.std,
                "forced": made.forced,
                "reason": made.reason,
                "text": made.text,
                "readout": made.readout,
                "model": model,
            }
        )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA.with_metadata({_KEY: key.encode()})), buffer)
    write_atomic(path, buffer.getvalue())
