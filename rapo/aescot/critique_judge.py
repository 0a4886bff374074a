"""CritiqueJudge: the judge that the configuration names, over the rules and a judge model.

- Every critique meets the rules on its text first; a judge model is asked about the others only.
- Alignment and grounding are a judge model's where there is one, else those of the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapo.aescot.judge import judge_critique, text_fault
from rapo.aescot.measure import measure
from rapo.aescot.model_judge import ModelJudge, WrittenImage
from rapo.aescot.votes import ModelVerdict
from rapo.config import Config
from rapo.images.decode import decode_image
from rapo.records import Critique


class CritiqueJudge:
    """Keeps or rejects critiques. `spent` is what earlier processes of the same run have spent of
    the judge's budget."""

    def __init__(self, config: Config, spent: float = 0.0) -> None:
        self._config = config
        self._model = ModelJudge(config, spent) if config.aescot.judge.kind in ("vllm", "openai") else None

    def judge(self, critiques: Sequence[WrittenImage]) -> list[ModelVerdict]:
        """A verdict for each critique, in order. Raises `ImageError` where the rules cannot measure
        an image."""
        if self._config.aescot.judge.kind == "none":
            return [ModelVerdict(True)] * len(critiques)
        if self._model is None:
            return [self._by_rules(one) for one in critiques]
        faults = [text_fault(one.critique) for one in critiques]
        asked = iter(self._model.judge([one for one, fault in zip(critiques, faults, strict=True) if fault is None]))
        return [next(asked) if fault is None else ModelVerdict(False, *fault) for fault in faults]

    def close(self) -> None:
        """Close the model."""
        if self._model is not None:
            self._model.close()

    def _by_rules(self, one: WrittenImage) -> ModelVerdict:
        measured = measure(np.asarray(decode_image(one.data, self._config.image)))
        verdict = judge_critique(
            Critique(one.uid, one.critique), measured, one.score, self._config.aescot.judge.tolerance
        )
        return ModelVerdict(verdict.keep, verdict.reason, verdict.detail)
