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


def test_with_several_sets_the_correlations_are_means_over_them() -> None:
    """Within each set the order is right, and across them it is not."""
    made = [
        Prediction(f"{name}/{place}", name, place / 10, place / 10 + shift, "")
        for name, shift in (("a", 0.0), ("b", 0.5))
        for place in range(5)
    ]
    alone = [Prediction("c/0", "c", 0.2, 0.9, "")]  # one image ranks nothing, whatever the model
    records = images(known=True)[: len(made) + 1]
    found = Validation(records, ImageConfig()).measure([*made, *alone])
    assert [found["srcc"], found["plcc"], found["krcc"]] == pytest.approx([1.0, 1.0, 1.0])
    pooled = evaluate_predictions([*made, *alone], bootstrap=0)
    assert pooled["srcc"] is not None
    assert pooled["srcc"] < 0.9
    assert found["mae"] == pooled["mae"]
    flat = [Prediction(one.uid, "b", one.target, 0.5, "") if one.dataset == "b" else one for one in made]
    assert Validation(records, ImageConfig()).measure([*flat, *alone])["srcc"] is None, "undefined in one set"


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
