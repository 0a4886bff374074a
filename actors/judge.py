"""Judge actor: keeps or rejects critiques, each rejection with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rapo.aescot.judge import judge_critique
from rapo.aescot.measure import measure
from rapo.config import Config
from rapo.images.decode import decode_image, read_image_file
from rapo.records import Critique


class Judge:
    """Adds `keep`, `reason` and `detail` to rows with a critique. It measures the image itself, not
    trusting the teacher."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        verdicts = [
            self._judge(uid, path, float(score), critique, problem)
            for uid, path, score, critique, problem in zip(
                batch["uid"], batch["path"], batch["score"], batch["critique"], batch["problem"], strict=True
            )
        ]
        keep, reason, detail = (list(column) for column in zip(*verdicts, strict=True))
        return {**batch, "keep": keep, "reason": reason, "detail": detail}

    def _judge(
        self, uid: str, path: str, score: float, critique: str | None, problem: str | None
    ) -> tuple[bool, str | None, str]:
        if critique is None:
            return False, "image", problem or ""
        image = decode_image(read_image_file(Path(path), self._config.image), self._config.image)
        verdict = judge_critique(
            Critique(uid, critique), measure(np.asarray(image)), score, self._config.aescot.judge.tolerance
        )
        return verdict.keep, verdict.reason, verdict.detail
