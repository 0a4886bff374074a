"""Rule-based teacher: a pool of Ray Data actors that write critiques from measures of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.roles import Batch, Columns
from rapo.aescot.measure import measure
from rapo.aescot.writer import write_critique
from rapo.config import Config
from rapo.errors import ImageError
from rapo.images.decode import decode_image, read_image_file
from rapo.util.seeds import derive_seed


class RuleBasedTeacher:
    """Adds `critique` (None where the image is unusable, with `problem`) to rows with `uid`, `path`
    and `score`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, batch: Batch) -> Columns:
        critiques: list[str | None] = []
        problems: list[str | None] = []
        for uid, path, score in zip(batch["uid"], batch["path"], batch["score"], strict=True):
            try:
                image = decode_image(read_image_file(Path(path), self._config.image), self._config.image)
            except ImageError as error:
                critiques.append(None)
                problems.append(str(error))
                continue
            rng = np.random.default_rng(derive_seed(self._config.run.seed, "teacher", uid))
            slip_rate = self._config.aescot.teacher.slip_rate
            critique = write_critique(uid, measure(np.asarray(image)), float(score), rng, slip_rate)
            critiques.append(critique.text)
            problems.append(None)
        # Typed, because a batch that holds nothing but None would reach the judge as a column of
        # floating-point NaN.
        return {**batch, "critique": pa.array(critiques, pa.string()), "problem": pa.array(problems, pa.string())}
