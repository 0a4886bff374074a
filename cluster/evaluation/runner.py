"""Evaluation run: asks every model for the test sets, and writes figures, predictions and tables.

- What is wrong with a model or a source is an error before anything is asked.
- Answers are kept as they come (`cluster.evaluation.answers`), so that the same command goes on
  where it ended, and asks only what a new model or set adds.
- No engine is started where every answer is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.evaluation.answers import AnswerFile, write_predictions
from cluster.evaluation.engines import Engines, model_config, settings_digest
from cluster.evaluation.models import EvaluatedModel, FolderModel, GivenModel, ScorerModel
from cluster.evaluation.render import write_tables
from cluster.evaluation.scorers import scorer_predictions
from cluster.terminal.console import Console
from rapo.answers.prompts import SCORE_PROMPT
from rapo.client.sync import ScorerClient
from rapo.config import Config
from rapo.errors import DataError
from rapo.evaluation.comparison import Comparer, Comparison
from rapo.evaluation.figures import Predicted
from rapo.evaluation.given import GivenPredictions
from rapo.evaluation.sets import EvalSet, image_digests
from rapo.models.card import weights_version
from rapo.records import Prediction

#: Makes a client of the scorer at an address.
Connect = Callable[[str], ScorerClient]


@dataclass
class EvaluationRun:
    """One evaluation. `config` is the command's own, made of the file `path` and `overrides`."""

    config: Config
    path: Path | None
    overrides: Sequence[str]
    sets: Sequence[EvalSet]
    out: Path
    console: Console
    connect: Connect
    notes: list[str] = field(default_factory=list)

    def evaluate(self, models: Sequence[EvaluatedModel]) -> Comparison:
        """Ask the models, and write `out/results.json`, `table.md`, `table.html` and
        `predictions/`. Raises `RapoError` where a model cannot be asked or answers nothing."""
        given = {model.name: GivenPredictions(model.file) for model in models if isinstance(model, GivenModel)}
        for model in models:
            if isinstance(model, ScorerModel):
                with self.connect(model.address) as client:
                    client.model()
        with Engines() as engines:
            digests = self._digests(models)
            found: dict[str, Mapping[str, Predicted]] = {}
            for model in models:
                if isinstance(model, GivenModel):
                    found[model.name] = self._given(model, given[model.name])
                elif isinstance(model, ScorerModel):
                    found[model.name] = self._of_scorer(model, digests)
                else:
                    found[model.name] = self._of_folder(model, digests, engines)
            facts = {one.name: one.facts for one in self.sets}
            settings = self.config.evaluate
            notes = [*(note for one in self.sets for note in one.notes), *self.notes]
            comparison = Comparer(facts, found, settings.bootstrap, self.config.run.seed).compare(
                settings.readout, notes
            )
            write_tables(self.out, comparison)
        return comparison

    def _digests(self, models: Sequence[EvaluatedModel]) -> dict[str, list[str]]:
        """The digests of the images by set, where a model is to be asked."""
        if all(isinstance(model, GivenModel) for model in models):
            return {}
        with self.console.stage("images", sum(len(one.records) for one in self.sets)) as handle:
            found, done = {}, 0
            for one in self.sets:
                found[one.name] = image_digests(one.records)
                handle.update(done := done + len(one.records))
            return found

    def _given(self, model: GivenModel, rows: GivenPredictions) -> dict[str, Predicted]:
        found: dict[str, Predicted] = {}
        for one in self.sets:
            predicted, notes = rows.predicted(one, model.scale)
            self.notes += notes
            if predicted is not None:
                found[one.name] = predicted
                write_predictions(self._file(model.name, one, "given"), one, predicted.predictions, str(model.file))
        if not found:
            raise DataError(
                f"{model.file} has no row for any image of {', '.join(one.name for one in self.sets)}: its names are not those "
                f"of the images, for example {self.sets[0].records[0].path}"
            )
        return found

    def _of_folder(
        self, model: FolderModel, digests: Mapping[str, Sequence[str]], engines: Engines
    ) -> dict[str, Predicted]:
        config, words = model_config(model, self.config, self.path, self.overrides)
        if words:
            self.notes.append(words)
        version = weights_version(model.folder)
        key = {**self._asked(config), "weights": version, "folder": settings_digest(model.folder)}

        def ask(one: EvalSet, rows: Sequence[int], keep: Callable[[Sequence[Prediction]], None]) -> None:
            engines.predict(model, config, [one.records[row] for row in rows], keep)

        return self._answered(model.name, key, f"{model.folder} ({version})", digests, ask)

    def _of_scorer(self, model: ScorerModel, digests: Mapping[str, Sequence[str]]) -> dict[str, Predicted]:
        settings = self.config.evaluate
        with self.connect(model.address) as client:
            version = client.model().model_version
            asked = {"readout": settings.readout, "samples": settings.samples if settings.readout == "sampled" else 0}
            key = {**asked, "address": model.address, "version": version}

            def ask(one: EvalSet, rows: Sequence[int], keep: Callable[[Sequence[Prediction]], None]) -> None:
                records = [one.records[row] for row in rows]
                scorer_predictions(client, version, settings.readout, settings.samples, records, keep)

            return self._answered(model.name, key, f"{model.address} ({version})", digests, ask)

    def _asked(self, config: Config) -> dict[str, object]:
        """What an answer of a model folder depends on, beside its weights."""
        settings, engine = config.evaluate, config.rollout.engine
        sampled = settings.readout == "sampled"
        return {
            "readout": settings.readout,
            "sampled": [settings.samples, config.rapo.sampling.temperature, config.run.seed] if sampled else [],
            "prompt": SCORE_PROMPT,
            "dtype": config.policy.dtype,
            "lengths": [config.policy.max_completion_tokens, engine.max_model_len],
        }

    def _answered(
        self,
        name: str,
        key: Mapping[str, object],
        words: str,
        digests: Mapping[str, Sequence[str]],
        ask: Callable[[EvalSet, Sequence[int], Callable[[Sequence[Prediction]], None]], None],
    ) -> dict[str, Predicted]:
        readout = self.config.evaluate.readout
        files = {one.name: AnswerFile(self._file(name, one, readout), key, one, digests[one.name]) for one in self.sets}
        if outdated := sum(file.outdated for file in files.values()):
            self.console.note(
                f"{name}: {outdated:,} earlier answers are of other weights or settings, and are asked again"
            )
        known = sum(file.known for file in files.values())
        with self.console.stage(name, sum(len(one.records) for one in self.sets)) as handle:
            handle.update(known)
            for one in self.sets:
                file = files[one.name]

                def keep(predictions: Sequence[Prediction], file: AnswerFile = file) -> None:
                    file.add(predictions)
                    handle.update(sum(item.known for item in files.values()))

                if missing := file.missing():
                    ask(one, missing, keep)
            return {one.name: files[one.name].finish(readout, words) for one in self.sets}

    def _file(self, name: str, one: EvalSet, readout: str) -> Path:
        return self.out / "predictions" / _slug(name) / f"{_slug(one.name)}.{readout}.parquet"


def _slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
