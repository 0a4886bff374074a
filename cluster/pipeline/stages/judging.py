"""Judging: has the judge model of `evaluate.grounded_judge` look at the rationales of predictions.

What it answered is kept as it comes, so that a stage that is started again asks for the rest only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.files.verdict_log import VERDICTS, VerdictLog
from rapo.answers.rationale import rationale_of
from rapo.config import Config
from rapo.explanations.grounding_judge import EVALUATION_JUDGE_SECTION, Explained, GroundingJudge, GroundingVerdict
from rapo.explanations.judged import JudgedGrounding, judged_grounding
from rapo.images.decode import read_image_bytes
from rapo.records import ImageRecord, Prediction

#: Images of one call, of which at most one is lost with the process.
_AT_ONCE = 64


def judge_rationales(
    config: Config, records: Sequence[ImageRecord], predictions: Sequence[Prediction], out: Path
) -> JudgedGrounding:
    """The measures of the rationales of predictions for `records`, which are in the same order. The
    verdicts go to `out/verdicts.jsonl`. Raises `ConfigError` where the judge cannot be asked."""
    settings, seed = config.evaluate.grounded_judge, config.run.seed
    log = VerdictLog(out / VERDICTS)
    judge = GroundingJudge(settings, config.image, EVALUATION_JUDGE_SECTION, seed=seed, history=log.history())
    verdicts: list[GroundingVerdict] = []
    try:
        for start in range(0, len(records), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            images = [read_image_bytes(record, config.image) for record in records[part]]
            rationales = [rationale_of(prediction.text) for prediction in predictions[part]]
            batch = judge.judge([Explained(*pair) for pair in zip(images, rationales, strict=True)])
            log.append(batch.new, batch.used)
            verdicts += batch.verdicts
    finally:
        judge.close()
    return judged_grounding(verdicts, settings.model or "", bootstrap=config.evaluate.bootstrap, seed=seed)
