"""What the report says of explanations and resolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.files.report import Report, RunFacts
from cluster.report.sentences import attributes_line, explanations_verdict, resolution_verdict
from rapo.aescot.writer import level_of, write_critique
from rapo.arrays import Floats
from rapo.explanations.attributes import ImageAttributes
from rapo.explanations.evaluate import ModelEvaluation, Standard, evaluate_explanations
from rapo.metrics import evaluate_predictions
from rapo.records import DIMENSIONS, Prediction

N = 80
ATTRIBUTES = np.random.default_rng(0).uniform(size=(N, len(DIMENSIONS)))
SCORES = np.linspace(0.1, 0.9, N)


def evaluation(said: Floats, scores: Floats = SCORES) -> ModelEvaluation:
    """Of a model that states the levels of `said`."""
    rng = np.random.default_rng(0)
    made = []
    for row, target, score in zip(said, SCORES, scores, strict=True):
        middle = (np.mean([level_of(value) for value in row]) + 0.5) / 5
        text = write_critique("u", dict(zip(DIMENSIONS, row, strict=True)), float(middle), rng, 0.0).text
        made.append(Prediction("u", "d", float(target), float(score), text))
    standard = Standard(ImageAttributes("attributes", ATTRIBUTES), None)
    explanations = evaluate_explanations(made, standard, bootstrap=200)
    return {**evaluate_predictions(made, bootstrap=0), "explanations": explanations}


def noisy(sd: float) -> Floats:
    return np.clip(ATTRIBUTES + np.random.default_rng(1).normal(0, sd, ATTRIBUTES.shape), 0, 1)


def report(before: ModelEvaluation, after: ModelEvaluation) -> Report:
    return Report(RunFacts(0, ""), evaluate={"coldstart": before, "rapo": after})


def test_a_loss_of_grounding_is_said() -> None:
    collapsed = noisy(0.1)
    collapsed[:, 4] = 0.9
    before, after = evaluation(noisy(0.1)), evaluation(collapsed)
    was, now = (model["explanations"]["grounding"]["mean"] for model in (before, after))
    text = explanations_verdict(report(before, after))
    assert text.startswith(f"The explanations got worse: mean grounding {was:.3f} → {now:.3f}, different rationales")
    assert text.endswith("Nearly all of RAPO's rationales say the same of exposure (100.0 %).")
    assert "same of" not in explanations_verdict(report(after, after)), "that is not RAPO's doing"


def test_a_gain_and_no_change_are_said() -> None:
    low, high = evaluation(noisy(0.6)), evaluation(noisy(0.1))
    assert explanations_verdict(report(low, high)).startswith("The explanations got better: mean grounding")
    assert explanations_verdict(report(high, low)).startswith("The explanations got worse: mean grounding")
    assert explanations_verdict(report(high, high)).startswith("The explanations stayed about as they were")


def test_fewer_rationales_are_a_loss_although_the_grounding_is_the_same() -> None:
    before, after = evaluation(noisy(0.1)), evaluation(noisy(0.1))
    after["explanations"]["distinct_rationales"] = 20
    assert explanations_verdict(report(before, after)).startswith("The explanations got worse")


@pytest.mark.parametrize("missing", ["coldstart", "rapo"])
def test_without_both_models_there_is_nothing_to_say(missing: str) -> None:
    both = report(evaluation(ATTRIBUTES), evaluation(ATTRIBUTES))
    one = replace(both, evaluate={model: row for model, row in both.evaluate.items() if model != missing})
    assert explanations_verdict(one) == resolution_verdict(one) == ""
    assert attributes_line(one).startswith("the images' own attributes")
    assert attributes_line(replace(both, evaluate={})) == ""


def test_a_loss_of_resolution_is_said() -> None:
    before = evaluation(ATTRIBUTES)
    assert resolution_verdict(report(before, before)) == ""
    few = evaluation(ATTRIBUTES, SCORES.round(1))
    assert resolution_verdict(report(before, few)) == (
        f"The scores lost resolution: their spread is {few['spread']:.2f} of the human scores' (1.00 before), "
        "on 9 different values (80 before)."
    )
    narrow = evaluation(ATTRIBUTES, 0.5 + 0.5 * (SCORES - 0.5))
    assert resolution_verdict(report(few, narrow)).startswith("The scores lost resolution: their spread is 0.50 of")
    assert resolution_verdict(report(narrow, narrow)) == ""


def test_measures_of_photographs_are_called_rough() -> None:
    row = evaluation(ATTRIBUTES)
    row["explanations"]["source"] = "measured"
    assert "rough" in attributes_line(report(row, row))
