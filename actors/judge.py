"""Judge actor: keeps or rejects critiques, each rejection with its reason."""

from __future__ import annotations

from actors.roles import Verdicts, WrittenBatch
from rapo.aescot.critique_judge import CritiqueJudge
from rapo.aescot.model_judge import WrittenImage
from rapo.config import Config


class Judge:
    """The judge that the configuration names. It looks at each image itself, not trusting the
    teacher. `spent` is what earlier processes of the same run have spent of its budget."""

    def __init__(self, config: Config, spent: float = 0.0) -> None:
        self._judge = CritiqueJudge(config, spent)

    def __call__(self, batch: WrittenBatch) -> Verdicts:
        columns = zip(batch["uid"], batch["image"], batch["score"], batch["critique"], strict=True)
        verdicts = self._judge.judge([WrittenImage(*row) for row in columns])
        return {
            "keep": [one.keep for one in verdicts],
            "reason": [one.reason for one in verdicts],
            "detail": [one.detail for one in verdicts],
            "usage": [one.usage for one in verdicts],
            "model": [one.model for one in verdicts],
        }
