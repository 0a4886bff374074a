"""Teacher actor: writes the critiques of a batch of images."""

from __future__ import annotations

from actors.roles import Critiques, ImageBatch
from rapo.aescot.rows import IMAGE, STOP, TEACHER, UNANSWERED
from rapo.aescot.teacher import RatedImage, open_teacher
from rapo.chat.types import ChatFault
from rapo.config import Config

_REASONS: dict[ChatFault | None, str | None] = {
    None: None,
    "image": IMAGE,
    "unusable": TEACHER,
    "unanswered": UNANSWERED,
    "stopped": STOP,
}


class Teacher:
    """The teacher that the configuration names. `spent` is what earlier processes of the same run
    have spent of its budget."""

    def __init__(self, config: Config, spent: float = 0.0) -> None:
        self._teacher = open_teacher(config, spent)

    def __call__(self, batch: ImageBatch) -> Critiques:
        columns = zip(batch["uid"], batch["image"], batch["score"], strict=True)
        written = self._teacher.write([RatedImage(*row) for row in columns])
        return {
            "critique": [one.text for one in written],
            "problem": [one.problem for one in written],
            "reason": [_REASONS[one.fault] for one in written],
            "usage": [one.usage for one in written],
            "model": [one.model for one in written],
        }
