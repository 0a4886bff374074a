"""Judge actor: keeps or rejects critiques, each rejection with its reason."""

from __future__ import annotations

import numpy as np

from actors.roles import Verdicts, WrittenBatch
from rapo.aescot.judge import judge_critique
from rapo.aescot.measure import measure
from rapo.config import Config
from rapo.images.decode import decode_image
from rapo.records import Critique


class Judge:
    """Measures each image itself, not trusting the teacher, and judges its critique."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, batch: WrittenBatch) -> Verdicts:
        verdicts: Verdicts = {"keep": [], "reason": [], "detail": []}
        columns = zip(batch["uid"], batch["image"], batch["score"], batch["critique"], strict=True)
        for uid, data, score, critique in columns:
            image = decode_image(data, self._config.image)
            verdict = judge_critique(
                Critique(uid, critique), measure(np.asarray(image)), score, self._config.aescot.judge.tolerance
            )
            verdicts["keep"].append(verdict.keep)
            verdicts["reason"].append(verdict.reason)
            verdicts["detail"].append(verdict.detail)
        return verdicts
