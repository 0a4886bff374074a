"""Logs: the structured log of a run, `rapo/log.jsonl`, a JSON object a line.

It is written through the standard `logging` module, by the logger `rapo` and those below it. The
fields of a line are given as `extra`:

    logger = logging.getLogger("rapo.run")
    logger.warning("replaced", extra={"role": "rollout worker 3", "step": 41})

- Only plain values of the names in `FIELDS` are written. No line holds bytes.
- What looks like a secret is masked.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from cluster.files.atomic import write_atomic

#: Fields that a line may have beside its message.
FIELDS = ("role", "step", "node", "version", "kind", "cause", "action", "seconds")
_MOST_BYTES, _OLD_FILES, _LONGEST = 32 * 2**20, 1, 4000
#: Environment variables whose values must never appear.
_SECRETS = ("RAY_AUTH_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")
_ASSIGNED = re.compile(
    r"(?i)\b((?:[\w-]*[_-])?(?:token|secret|password|passwd|api[_-]?key|authorization)\b[\"']?\s*[:=]\s*)(?:bearer\s+)?[^\s,;}]+"
)


@contextmanager
def run_log(path: Path, run: str) -> Iterator[logging.Logger]:
    """The logger `rapo`, which writes to `path` inside the block; `run` is in every line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_MOST_BYTES, backupCount=_OLD_FILES, encoding="utf-8", delay=True)
    handler.setFormatter(JsonLines(run))
    logger = logging.getLogger("rapo")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def run_id(folder: Path) -> str:
    """The run's name in logs and metrics. It is made once and kept in the run folder."""
    path = folder / ".run-id"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        made = f"{folder.name}-{secrets.token_hex(4)}"
        made = re.sub(r"[^A-Za-z0-9_.-]", "_", made)
        write_atomic(path, made + "\n")
        return made


class JsonLines(logging.Formatter):
    """`time` (Unix), `level`, `logger`, `run`, the fields that the record has, `message`, and
    `error` with its traceback."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": self._run,
        }
        row |= {name: _plain(record.__dict__[name]) for name in FIELDS if name in record.__dict__}
        row["message"] = clean(record.getMessage())
        if record.exc_info:
            row["error"] = clean(self.formatException(record.exc_info))
        return json.dumps(row, ensure_ascii=False, allow_nan=False)


def clean(text: str) -> str:
    """`text`, shortened, with what looks like a secret masked."""
    for name in _SECRETS:
        value = os.environ.get(name, "")
        if len(value) >= 8:
            text = text.replace(value, "***")
    text = _ASSIGNED.sub(r"\1***", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(value) if isinstance(value, str) else f"<{type(value).__name__}>"
