"""Rule-based teacher: a pool of Ray Data actors that write critiques from measures of the image."""

from __future__ import annotations

import numpy as np

from actors.roles import Critiques, ImageBatch
from rapo.aescot.measure import measure
from rapo.aescot.rows import IMAGE
from rapo.aescot.writer import write_critique
from rapo.config import Config
from rapo.errors import ImageError
from rapo.images.decode import decode_image
from rapo.util.seeds import derive_seed


class RuleBasedTeacher:
    """Writes a critique for each image that decodes."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, batch: ImageBatch) -> Critiques:
        answers: Critiques = {"critique": [], "problem": [], "reason": []}
        for uid, data, score in zip(batch["uid"], batch["image"], batch["score"], strict=True):
            text, problem = None, None
            try:
                text = self._write(uid, data, score)
            except ImageError as error:
                problem = str(error)
            answers["critique"].append(text)
            answers["problem"].append(problem)
            answers["reason"].append(IMAGE if problem else None)
        return answers

    def _write(self, uid: str, data: bytes, score: float) -> str:
        image = decode_image(data, self._config.image)
        rng = np.random.default_rng(derive_seed(self._config.run.seed, "teacher", uid))
        slip_rate = self._config.aescot.teacher.slip_rate
        return write_critique(uid, measure(np.asarray(image)), score, rng, slip_rate).text
