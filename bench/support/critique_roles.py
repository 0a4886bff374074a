"""Critique roles: a teacher and a judge that only take time, and note what they were asked.

- Answers depend on uid and score alone, so that runs can be compared. The judge rejects about one
  critique in ten.
- Each question is a line in a file, which outlives the processes: what was paid for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from actors.roles import Critiques, ImageBatch, Verdicts, WrittenBatch
from rapo.config import Config
from rapo.util.seeds import derive_seed

#: Where the questions are noted, and the seconds that a batch takes.
LOG, LATENCY = "RAPO_BENCH_QUESTIONS", "RAPO_BENCH_LATENCY"


@dataclass(frozen=True, slots=True)
class SlowTeacher:
    """Answers a batch after a while, as an endpoint or an engine does."""

    config: Config
    spent: float = 0.0

    def __call__(self, batch: ImageBatch) -> Critiques:
        lines = "".join(f"{uid}\n" for uid in batch["uid"]).encode()
        questions = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(questions, lines)  # in one piece: lines of several processes do not mix
        finally:
            os.close(questions)
        time.sleep(float(os.environ[LATENCY]))
        texts: list[str | None] = [
            f"{uid} ({len(image)} bytes): " + "soft light, calm colors. " * 20
            for uid, image in zip(batch["uid"], batch["image"], strict=True)
        ]
        return {"critique": texts, "problem": [None] * len(texts), "reason": [None] * len(texts)}


@dataclass(frozen=True, slots=True)
class CoinJudge:
    """Rejects by a stable hash of the uid."""

    config: Config
    spent: float = 0.0

    def __call__(self, batch: WrittenBatch) -> Verdicts:
        keep = [derive_seed("judge", uid) % 10 > 0 for uid in batch["uid"]]
        return {
            "keep": keep,
            "reason": [None if kept else "factual" for kept in keep],
            "detail": ["" if kept else "a coin" for kept in keep],
        }
