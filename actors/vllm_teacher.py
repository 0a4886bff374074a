"""VLM teacher: a pool of Ray Data actors that have a vision-language model write critiques."""

from __future__ import annotations

from PIL import Image

from actors.roles import Critiques, ImageBatch
from rapo.aescot.rows import IMAGE, TEACHER
from rapo.config import Config
from rapo.errors import ImageError
from rapo.images.decode import decode_image
from rapo.inference.environment import set_engine_environment
from rapo.util.seeds import derive_seed


class VllmTeacher:
    """Has the model write a critique of each image that decodes.

    One process holds one teacher: its engine reads the environment that is set here, before vLLM is
    first imported.
    """

    def __init__(self, config: Config) -> None:
        settings = config.aescot.teacher
        set_engine_environment(max(1, int(settings.cpus)), settings.engine.kv_cache_gib)
        from rapo.inference.teacher_engine import TeacherEngine

        self._config = config
        self._engine = TeacherEngine(settings)

    def __call__(self, batch: ImageBatch) -> Critiques:
        limits, seed = self._config.image, self._config.run.seed
        count = len(batch["uid"])
        answers: Critiques = {"critique": [None] * count, "problem": [None] * count, "reason": [None] * count}
        images: list[Image.Image] = []
        places: list[int] = []
        for place, data in enumerate(batch["image"]):
            try:
                images.append(decode_image(data, limits))
                places.append(place)
            except ImageError as error:
                answers["problem"][place], answers["reason"][place] = str(error), IMAGE
        scores = [batch["score"][place] for place in places]
        seeds = [derive_seed(seed, "teacher", batch["uid"][place]) for place in places]
        for place, written in zip(places, self._engine.write(images, scores, seeds), strict=True):
            answers["critique"][place], answers["problem"][place] = written.text, written.problem
            answers["reason"][place] = None if written.problem is None else TEACHER
        return answers
