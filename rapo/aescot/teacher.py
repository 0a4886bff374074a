"""Teachers: write critiques of images, behind one interface.

- `measured` writes from image measures; `vllm` and `openai` have a vision-language model write;
  `given` takes the critiques of a file.
- An image without a usable critique has a problem and a fault; it never raises.
- What is written depends on run seed and uid, not on the process or the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rapo.aescot.exchange.given import read_given
from rapo.aescot.measure import measure
from rapo.aescot.prompt import teacher_prompt, teacher_template
from rapo.aescot.writer import write_critique
from rapo.aescot.written import WrittenCritique, read_critique
from rapo.chat.open import open_chat_model
from rapo.chat.types import Question
from rapo.config import Config
from rapo.errors import ImageError
from rapo.images.decode import decode_image
from rapo.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class RatedImage:
    """An image for a teacher: the encoded bytes of its file, and its human score in [0, 1]."""

    uid: str
    data: bytes
    score: float


class CritiqueWriter(Protocol):
    """Writes critiques."""

    def write(self, images: Sequence[RatedImage]) -> list[WrittenCritique]:
        """A critique or a problem for each image, in order."""
        ...

    def close(self) -> None:
        """Give up what the teacher holds."""
        ...


def open_teacher(config: Config, spent: float = 0.0) -> CritiqueWriter:
    """The teacher of `config.aescot.teacher`. `spent` is what earlier processes of the same run
    have spent of its budget.

    Raises `ConfigError` for a prompt that cannot be filled in or a key that is not set, and
    `ModelError` for a folder without a model.
    """
    kind = config.aescot.teacher.kind
    if kind == "measured":
        return RuleBasedTeacher(config)
    if kind == "given":
        return GivenTeacher(config)
    return ModelTeacher(config, spent)


class RuleBasedTeacher:
    """Writes from measures of the image and its score, without weights."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def write(self, images: Sequence[RatedImage]) -> list[WrittenCritique]:
        """A critique for each image that can be decoded."""
        return [self._write(image) for image in images]

    def close(self) -> None:
        """There is nothing to give up."""

    def _write(self, image: RatedImage) -> WrittenCritique:
        config = self._config
        try:
            pixels = np.asarray(decode_image(image.data, config.image))
        except ImageError as error:
            return WrittenCritique(None, str(error), "image")
        rng = np.random.default_rng(derive_seed(config.run.seed, "teacher", image.uid))
        slip_rate = config.aescot.teacher.slip_rate
        return WrittenCritique(write_critique(image.uid, measure(pixels), image.score, rng, slip_rate).text)


class GivenTeacher:
    """Takes the critiques of a file (`rapo.aescot.exchange.given`)."""

    def __init__(self, config: Config) -> None:
        given = read_given(config.aescot.teacher)
        self._texts = dict(zip(given.records.uids(), given.texts, strict=True))

    def write(self, images: Sequence[RatedImage]) -> list[WrittenCritique]:
        """The critique that the file has of each image."""
        return [self._written(image.uid) for image in images]

    def close(self) -> None:
        """There is nothing to give up."""

    def _written(self, uid: str) -> WrittenCritique:
        text = self._texts.get(uid)
        if text is None:
            return WrittenCritique(None, f"the file has no critique between <think> tags for {uid}", "unusable")
        return WrittenCritique(text)


class ModelTeacher:
    """Has a vision-language model write. It is thread-safe where the model is behind an
    endpoint."""

    def __init__(self, config: Config, spent: float = 0.0) -> None:
        self._settings, self._seed = config.aescot.teacher, config.run.seed
        self._template = teacher_template(self._settings)
        self._model = open_chat_model(config, self._settings, spent=spent)

    def write(self, images: Sequence[RatedImage]) -> list[WrittenCritique]:
        """A critique or a problem for each image."""
        questions = [
            Question(
                teacher_prompt(self._template, self._settings, image.score),
                image.data,
                derive_seed(self._seed, "teacher", image.uid),
            )
            for image in images
        ]
        return [read_critique(answer) for answer in self._model.ask(questions)]

    def close(self) -> None:
        """Close the model."""
        self._model.close()
