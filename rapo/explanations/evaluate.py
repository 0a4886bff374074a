"""Evaluation of explanations: all measures of the rationales of a model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired

from typing_extensions import TypedDict

from rapo.answers.rationale import rationale_of
from rapo.explanations.attributes import ImageAttributes, Source
from rapo.explanations.grounding import Grounding, grounding
from rapo.explanations.judged import JudgedGrounding
from rapo.explanations.reader import Consistency, Reader, consistency
from rapo.metrics import Evaluation
from rapo.records import Prediction


class Explanations(TypedDict):
    """The measures of `n` rationales, as plain values that JSON holds.

    `source` says where the images' attributes come from (`rapo.explanations.attributes`).
    `distinct_rationales` counts the different rationales, whatever their white space, and
    `distinct` is their share of `n`. `judged` is there where a judge model was asked.
    """

    source: Source
    n: int
    grounding: Grounding
    consistency: Consistency
    distinct_rationales: int
    distinct: float | None
    judged: NotRequired[JudgedGrounding]


class ModelEvaluation(Evaluation):
    """The metrics of a model's predictions, and the measures of its explanations."""

    explanations: Explanations


@dataclass(frozen=True, slots=True)
class Standard:
    """What the explanations of every model are measured against: the attributes of the images, and
    a reader that was fitted on human scores; None where there was too little to fit."""

    attributes: ImageAttributes
    reader: Reader | None


def evaluate_explanations(
    predictions: Sequence[Prediction], standard: Standard, *, bootstrap: int = 1000, seed: int = 0
) -> Explanations:
    """Measure the rationales of predictions, which are in the order of `standard.attributes`.

    A rationale counts whether or not its prediction has a score; consistency needs one. The
    intervals are of `bootstrap` resamples of the images, seeded by `seed`, and None with 0.
    """
    rationales = [rationale_of(prediction.text) for prediction in predictions]
    scored = [(text, p.score) for text, p in zip(rationales, predictions, strict=True) if p.score is not None]
    n, distinct = len(rationales), distinct_rationales(rationales)
    return {
        "source": standard.attributes.source,
        "n": n,
        "grounding": grounding(rationales, standard.attributes.values, bootstrap=bootstrap, seed=seed),
        "consistency": consistency(
            standard.reader,
            [text for text, _ in scored],
            [score for _, score in scored],
            bootstrap=bootstrap,
            seed=seed,
        ),
        "distinct_rationales": distinct,
        "distinct": distinct / n if n else None,
    }


def distinct_rationales(rationales: Sequence[str]) -> int:
    """The number of different rationales, whatever their white space."""
    return len({" ".join(rationale.split()) for rationale in rationales})
