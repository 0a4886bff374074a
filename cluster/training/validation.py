"""Validation: the figures of a model in the loop, from its predictions on the validation images.

- The images' attributes, which explanations are measured against, are taken once in a run, at its
  first validation.
- Images without attributes of their own are measured, up to a limit, because the loop stands still
  meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from rapo.answers.rationale import rationale_of
from rapo.config import ImageConfig
from rapo.evaluation.over_sets import mean_correlations
from rapo.explanations.attributes import ImageAttributes, image_attributes
from rapo.explanations.evaluate import distinct_rationales
from rapo.explanations.grounding import grounding
from rapo.metrics import Evaluation, evaluate_predictions
from rapo.records import ImageRecord, Prediction

# With this many images the standard error of the mean grounding is about .01.
_MAX_MEASURED = 1024


class ValidationResult(Evaluation):
    """The metrics of the predictions, without intervals; with several data sets the correlations
    are means over them (`rapo.evaluation.over_sets`). `grounding` is the mean one of the rationales
    (`rapo.explanations.grounding`), None without images; `distinct_rationales` counts the different
    ones."""

    grounding: float | None
    distinct_rationales: int


class Validation:
    """Measures predictions for `records`, which are in the same order."""

    def __init__(self, records: Sequence[ImageRecord], limits: ImageConfig) -> None:
        self._records = records
        self._limits = limits

    def measure(self, predictions: Sequence[Prediction]) -> ValidationResult:
        rationales = [rationale_of(prediction.text) for prediction in predictions]
        values = self._attributes.values
        figures = evaluate_predictions(predictions, bootstrap=0)
        if len({prediction.dataset for prediction in predictions}) > 1:
            means = mean_correlations(predictions)
            figures["plcc"], figures["srcc"], figures["krcc"] = means["plcc"], means["srcc"], means["krcc"]
        return {
            **figures,
            "grounding": grounding(rationales[: len(values)], values)["mean"],
            "distinct_rationales": distinct_rationales(rationales),
        }

    @cached_property
    def _attributes(self) -> ImageAttributes:
        known = all(record.attributes is not None for record in self._records)
        return image_attributes(self._records if known else self._records[:_MAX_MEASURED], self._limits)
