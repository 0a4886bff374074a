"""Evaluation: measures a model, its explanations and its calibrated intervals on the test images,
through the rollout fleet.

- Of several data sets each is measured by itself. The correlations are then means over them.
- The tables are those of `rapo evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.evaluation.render import write_tables
from cluster.files.atomic import write_json
from cluster.files.predictions import PredictionRow, write_predictions
from cluster.files.report import MODELS
from cluster.pipeline.stages.aescot import kept_critiques
from cluster.pipeline.stages.calibration import VALIDATION, measured_interval
from cluster.pipeline.stages.judging import judge_rationales
from cluster.rollout.fleet import Fleet
from rapo.config import Config
from rapo.datasets.record_table import RecordTable
from rapo.datasets.splits import subsample
from rapo.evaluation.comparison import Comparer, Comparison
from rapo.evaluation.figures import Predicted
from rapo.evaluation.over_sets import by_set
from rapo.evaluation.sets import sets_of_records
from rapo.explanations.attributes import image_attributes
from rapo.explanations.evaluate import ModelEvaluation, Standard, evaluate_explanations
from rapo.explanations.reader import fit_reader
from rapo.metrics import Evaluation, evaluate_predictions
from rapo.records import ImageRecord, Prediction


class Evaluator:
    """Measures one model after the other on the same images, against the same standard.

    `aescot` is the folder with the critiques that the frozen reader learns from; `out` gets the
    results.
    """

    def __init__(self, config: Config, fleet: Fleet, records: RecordTable, aescot: Path, out: Path) -> None:
        self._config = config
        self._fleet = fleet
        self._sets = sets_of_records(records, "the test split of the run", config, embedded=config.data.embedded)
        self._records = [record for one in self._sets for record in one.records]
        self._out = out
        self._predictions: dict[str, dict[str, Predicted]] = {}
        self._comparer = Comparer(
            {one.name: one.facts for one in self._sets}, self._predictions, config.evaluate.bootstrap, config.run.seed
        )
        critiques = [(row.critique, row.score) for row in kept_critiques(aescot) if row.critique is not None]
        self._standard = Standard(
            image_attributes(self._records, config.image),
            fit_reader([text for text, _ in critiques], [score for _, score in critiques]),
        )

    def evaluate(self, name: str, validation: Sequence[ImageRecord] | None = None) -> ModelEvaluation:
        """Measure the model that the fleet holds; writes `out/<name>.json` and
        `out/<name>.parquet`.

        With `validation`, intervals are calibrated on these images, up to `evaluate.max_images` of
        them, whose predictions go to `out/validation.parquet`, and measured on the test images.
        """
        predictions = self._predict(self._records, f"{name}.parquet")
        bootstrap, seed = self._config.evaluate.bootstrap, self._config.run.seed
        result: ModelEvaluation = {
            **self._measured(name, predictions),
            "explanations": evaluate_explanations(predictions, self._standard, bootstrap=bootstrap, seed=seed),
        }
        if self._config.evaluate.grounded_judge.kind == "openai":
            judged = judge_rationales(self._config, self._records, predictions, self._out)
            result["explanations"]["judged"] = judged
        if validation is not None:
            picked = self._predict(self._sampled(validation), VALIDATION)
            result["interval"] = measured_interval(self._config, picked, predictions)
        write_json(self._out / f"{name}.json", result)
        return result

    def compare(self) -> Comparison:
        """The models that were evaluated, beside each other and beside published figures; writes
        the tables into `out`."""
        comparison = self._comparer.compare(self._config.evaluate.readout)
        write_tables(self._out, comparison)
        return comparison

    def _measured(self, name: str, predictions: Sequence[Prediction]) -> Evaluation:
        """The metrics of a model, and what `compare` needs of it."""
        bootstrap, seed = self._config.evaluate.bootstrap, self._config.run.seed
        model = next(words for key, words in MODELS if key == name)
        found = by_set(predictions)
        self._predictions[model] = {one.name: Predicted(found[one.name]) for one in self._sets}
        if len(self._sets) == 1:
            return evaluate_predictions(predictions, bootstrap=bootstrap, seed=seed)
        result = evaluate_predictions(predictions, bootstrap=0)
        mean = self._comparer.figures(model)["mean"]
        result["plcc"], result["srcc"], result["krcc"] = (mean[key]["value"] for key in ("plcc", "srcc", "krcc"))
        result["plcc_interval"], result["srcc_interval"] = mean["plcc"]["interval"], mean["srcc"]["interval"]
        return result

    def _sampled(self, records: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Up to `evaluate.max_images` records, sampled by the seed, in their order."""
        rows = subsample([record.uid for record in records], self._config.evaluate.max_images, self._config.run.seed)
        return [records[int(row)] for row in rows]

    def _predict(self, records: Sequence[ImageRecord], file: str) -> list[Prediction]:
        """Predict `records`, and write that to a file."""
        predictions = self._fleet.predictions(records)
        rows = [PredictionRow.of(made, record) for made, record in zip(predictions, records, strict=True)]
        self._out.mkdir(parents=True, exist_ok=True)
        write_predictions(self._out / file, rows)
        return predictions
