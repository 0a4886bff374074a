"""The figures of a validation: those of the predictions, and those of their rationales."""

from __future__ import annotations

import numpy as np
import pytest
from builders import png

from cluster.training import validation as module
from cluster.training.validation import Validation
from rapo.aescot.writer import level_of, write_critique
from rapo.answers.parse import format_completion
from rapo.config import ImageConfig
from rapo.metrics import evaluate_predictions
from rapo.records import DIMENSIONS, ImageRecord, Prediction

N = 40


def images(known: bool) -> list[ImageRecord]:
    attributes = np.random.default_rng(0).uniform(size=(N, len(DIMENSIONS)))
    return [
        ImageRecord(
            f"d/{i}", "d", "validation", i / N, i / N, (0.0, 1.0), data=png(56, 56, i),
            attributes=tuple(row.tolist()) if known else None,
        )
        for i, row in enumerate(attributes)
    ]  # fmt: skip


def predictions(records: list[ImageRecord]) -> list[Prediction]:
    """True critiques of images with attributes, whose completions lack the end of the answer."""
    made = []
    for record in records:
        values = dict(zip(DIMENSIONS, record.attributes or (0.5,) * 5, strict=True))
        score = (np.mean([level_of(value) for value in values.values()]) + 0.5) / 5
        critique = write_critique(record.uid, values, float(score), np.random.default_rng(0), 0.0)
        text = format_completion(critique.text, record.score).removesuffix("</answer>")
        made.append(Prediction(record.uid, "d", record.score, record.score, text))
    return made


def test_a_validation_has_the_figures_of_scores_and_of_rationales() -> None:
    records = images(known=True)
    made = predictions(records)
    found = Validation(records, ImageConfig()).measure(made)
    assert found["grounding"] is not None
    assert found["grounding"] > 0.95
    assert found["distinct_rationales"] == len({prediction.text.split("</think>")[0] for prediction in made})
    assert found["distinct_scores"] == N
    assert found["spread"] == pytest.approx(1.0)
    assert found["srcc"] == 1.0
    assert found.items() >= evaluate_predictions(made, bootstrap=0).items()


def test_images_are_measured_once_in_a_run_and_not_more_than_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(records, limits):
        calls.append(len(records))
        return measured(records, limits)

    measured = module.image_attributes
    monkeypatch.setattr(module, "image_attributes", counted)
    monkeypatch.setattr(module, "_MAX_MEASURED", 10)
    records = images(known=False)
    validation = Validation(records, ImageConfig())
    assert calls == []
    first = validation.measure(predictions(records))
    assert validation.measure(predictions(records)) == first
    assert calls == [10]
    assert first["grounding"] == 0.0, "all rationales are alike"
    assert first["distinct_rationales"] == 1
    Validation(images(known=True), ImageConfig()).measure(predictions(records))
    assert calls == [10, N]
