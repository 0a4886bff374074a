"""VLM teacher: a pool of Ray Data actors that have a vision-language model write critiques."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from PIL import Image

from actors.roles import Batch, Columns
from rapo.config import Config
from rapo.errors import ImageError
from rapo.images.decode import decode_image, read_image_file
from rapo.inference.environment import set_engine_environment
from rapo.util.seeds import derive_seed


class VllmTeacher:
    """Adds `critique` (None where there is none, with `problem`) to rows with `uid`, `path` and
    `score`.

    One process holds one teacher: its engine reads the environment that is set here, before vLLM is
    first imported.
    """

    def __init__(self, config: Config) -> None:
        settings = config.aescot.teacher
        set_engine_environment(max(1, int(settings.cpus)), settings.engine.kv_cache_gib)
        from rapo.inference.teacher_engine import TeacherEngine

        self._config = config
        self._engine = TeacherEngine(settings)

    def __call__(self, batch: Batch) -> Columns:
        limits, seed = self._config.image, self._config.run.seed
        critiques: list[str | None] = [None] * len(batch["uid"])
        problems: list[str | None] = [None] * len(critiques)
        images: list[Image.Image] = []
        places: list[int] = []
        for place, path in enumerate(batch["path"]):
            try:
                images.append(decode_image(read_image_file(Path(path), limits), limits))
                places.append(place)
            except ImageError as error:
                problems[place] = str(error)
        scores = [float(batch["score"][place]) for place in places]
        seeds = [derive_seed(seed, "teacher", batch["uid"][place]) for place in places]
        for place, written in zip(places, self._engine.write(images, scores, seeds), strict=True):
            critiques[place], problems[place] = written.text, written.problem
        # Typed, because a batch that holds nothing but None would reach the judge as a column of
        # floating-point NaN.
        return {**batch, "critique": pa.array(critiques, pa.string()), "problem": pa.array(problems, pa.string())}
