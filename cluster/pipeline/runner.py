"""Pipeline: runs the stages of a run in order, from images with scores to a served scorer.

- A stage that is finished is skipped.
- A stage takes what it needs of earlier ones from the run folder.
- The rollout fleet is kept from one stage to the next, because an engine takes long to start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cluster.evaluation.render import RESULTS
from cluster.files.alerts import read_alerts
from cluster.files.atomic import disk_full_named
from cluster.files.report import MODELS, CritiqueCounts, DataFacts, Report, RunFacts, ServedFacts, StageTime
from cluster.files.run_folder import Finished, RunFolder
from cluster.files.typed_json import read_json_as
from cluster.files.versions import versions
from cluster.pipeline.inputs import keep_images, policy_digest, raise_changed
from cluster.pipeline.results import (
    AesCoTResult,
    ColdStartResult,
    DataResult,
    EvaluateResult,
    ExportResult,
    RapoResult,
    ServeResult,
)
from cluster.pipeline.stages.data import SUMMARY, load_data
from cluster.pipeline.waits import waits_said
from cluster.remote.needs import needs_of
from cluster.remote.ray_autoscaler import requested_capacity
from cluster.remote.ray_session import ray_session
from cluster.terminal.console import Console, StageHandle
from rapo.config import Config
from rapo.errors import RunFolderError
from rapo.util.atomic_dir import whole_folder

if TYPE_CHECKING:
    from cluster.rollout.fleet import Fleet
    from cluster.rollout.listener import FleetListener
    from rapo.datasets.load import Dataset
    from rapo.datasets.record_table import RecordTable
    from rapo.evaluation.comparison import Comparison
    from rapo.explanations.evaluate import ModelEvaluation

#: Every stage, in order. Each needs what the ones before it left in the run folder.
STAGES = ("data", "aescot", "coldstart", "rapo", "evaluate", "export", "serve")

#: Why a score band has fewer critiques than its share.
_ENDS = {"exhausted": "all that there are", "limit": "all that aescot.refill allows to ask"}

Result = TypeVar("Result")


class Pipeline:
    """Runs stages in an open run folder.

    `stored` is called at the end of each stage, and returns when its files are where they have to
    last. Other nodes fetch the model from `base`, the URL of `policy.model`, and folders of the run
    from the URL that `where` says; without these they must see the folders of this machine.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        console: Console,
        stored: Callable[[], None] = lambda: None,
        base: str | None = None,
        where: Callable[[Path], Path] | None = None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._console = console
        self._stored = stored
        self._base = base
        self._where = where
        self._cleanup = ExitStack()
        self._fleet: Fleet | None = None
        self._dataset: Dataset | None = None
        self._work: dict[str, Callable[[StageHandle], object]] = {
            "data": self._data,
            "aescot": self._aescot,
            "coldstart": self._coldstart,
            "rapo": self._rapo,
            "evaluate": self._evaluate,
            "export": self._export,
            "serve": self._serve,
        }

    def run(self, stages: tuple[str, ...] = STAGES) -> Report:
        """Run those of `stages` that are not finished. With all stages the report is written."""
        with self._cleanup:
            if any(self._folder.finished(stage) is None for stage in stages):
                raise_changed(self._config, self._folder)
            for stage in stages:
                done = self._folder.finished(stage)
                if done is not None:
                    self._console.skip(stage, f"finished before, in {done.seconds:.0f} s")
                    continue
                began = time.perf_counter()
                with (
                    self._console.stage(stage, self._total(stage)) as handle,
                    disk_full_named(self._folder.path),
                    waits_said(handle, needs_of(self._config).get(stage, ())),
                ):
                    result = self._work[stage](handle)
                self._folder.finish(stage, time.perf_counter() - began, result)
                self._stored()
            report = self.report()
            if stages == STAGES:
                from cluster.report.build import write_report

                write_report(self._folder.path, report)
            return report

    def report(self) -> Report:
        """Everything that the finished stages left, for machines."""
        finished = {stage: done for stage in STAGES if (done := self._folder.finished(stage)) is not None}
        served = self._folder.result("serve", ServeResult)
        evaluate = self._folder / "evaluate"
        return Report(
            run=RunFacts(self._config.run.seed, str(self._folder.path)),
            stages={stage: StageTime(done.seconds) for stage, done in finished.items()},
            versions=versions(),
            data=self._data_facts() if "data" in finished else None,
            aescot=self._critique_counts() if "aescot" in finished else None,
            alerts=read_alerts(self._folder.path) if "rapo" in finished else None,
            evaluate={name: _evaluation(evaluate, name) for name, _ in MODELS} if "evaluate" in finished else {},
            comparison=_comparison(evaluate) if "evaluate" in finished else None,
            served=None
            if served is None
            else ServedFacts(served.images, served.failed, served.scoring_seconds, served.max_abs_difference),
        )

    # What a stage takes from the run folder.

    def _need(self, stage: str, kind: type[Result]) -> Result:
        done = self._folder.result(stage, kind)
        if done is None:
            raise RunFolderError(f"stage '{stage}' is not finished in {self._folder.path}; run it first.")
        return done

    def _records(self) -> Dataset:
        if self._dataset is None:
            self._need("data", Finished)
            self._dataset = load_data(self._config, self._folder)
        return self._dataset

    def _data_facts(self) -> DataFacts:
        return read_json_as(self._folder / "data" / SUMMARY, DataFacts)

    def _critique_counts(self) -> CritiqueCounts:
        from cluster.pipeline.stages.aescot import MANIFEST

        return read_json_as(self._folder / "aescot" / MANIFEST, CritiqueCounts)

    @property
    def _coldstart_model(self) -> Path:
        self._need("coldstart", Finished)
        return self._folder / "coldstart" / "model"

    def _ray(self) -> None:
        self._cleanup.enter_context(ray_session(self._config))

    def _new_fleet(self, listener: FleetListener | None = None) -> Fleet:
        """A rollout fleet, kept for the stages after this one."""
        from cluster.rollout.fleet import Fleet

        self._close_fleet()
        self._ray()
        self._fleet = Fleet(self._config, listener=listener, where=self._where or Path)
        self._cleanup.callback(self._close_fleet)
        return self._fleet

    def _close_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None

    def _total(self, stage: str) -> int | None:
        """The steps of a stage, for its progress bar."""
        settings, scenes = self._config, self._config.data.scenes
        if stage == "aescot":
            given = settings.aescot.teacher.kind == "given"
            return settings.aescot.images if given else min(settings.aescot.images, len(self._records().split("train")))
        return {
            "data": scenes.train + scenes.validation + scenes.test if settings.data.embedded else None,
            "coldstart": settings.coldstart.steps,
            "rapo": settings.rapo.steps,
            "serve": settings.serve.demo_images or None,
        }.get(stage)

    # The stages.

    def _data(self, handle: StageHandle) -> DataResult:
        self._dataset = load_data(self._config, self._folder, lambda done, _: handle.update(done))
        for skipped in self._dataset.skipped[:5]:
            handle.note(f"skipped {skipped['image']}: {skipped['detail']}")
        if len(self._dataset.skipped) > 5:
            handle.note(f"and {len(self._dataset.skipped) - 5} more; all are in data/{SUMMARY}")
        for note in self._dataset.info["notes"]:
            handle.note(note)
        if leaks := self._dataset.leaks:
            done = "left out" if self._config.data.contamination == "drop" else "kept"
            one = leaks[0]
            handle.note(
                f"{len(leaks)} images are in a later split too, and were {done}; for example {one['image']} of {one['split']} "
                f"is {one['also']} of {one['also_in']}; all are in data/{SUMMARY}"
            )
        counts = self._data_facts().counts
        handle.update(**counts)
        if not counts["validation"]:
            handle.note("no image is left for validation, so that no model can be chosen by it; give more images")
        return DataResult(
            counts=counts,
            skipped=len(self._dataset.skipped),
            images=keep_images(self._folder / "data", self._dataset.records),
        )

    def _aescot(self, handle: StageHandle) -> AesCoTResult:
        from cluster.pipeline.stages.aescot import FEW, write_aescot

        train = self._critique_images(handle)
        self._ray()
        with requested_capacity(self._config, "aescot"):
            counts = write_aescot(self._config, train, self._folder / "aescot", handle.update, handle.note)
        handle.update(counts.kept, kept=counts.kept)
        for name, band in counts.by_band.items():
            if counts.shortfall[name] and (self._config.aescot.refill or band.end == "exhausted"):
                handle.note(f"band {name}: {band.kept} critiques of {band.asked} rows, {_ENDS[band.end]}")
        for role, facts in counts.roles.items():
            if facts.cost or facts.address:
                tokens = f"{facts.prompt_tokens:,} prompt and {facts.completion_tokens:,} completion tokens"
                handle.note(f"{role} {facts.model}: {tokens}, cost {facts.cost:.4g}")
        if counts.kept < FEW:
            handle.note(f"only {counts.kept} critiques were kept: the cold start will learn them by heart")
        return AesCoTResult(counts.generated, counts.kept)

    def _critique_images(self, handle: StageHandle) -> RecordTable:
        """The images that critiques are written of: those of training, or of given critiques."""
        from rapo.aescot.exchange.given import given_records

        dataset, teacher = self._records(), self._config.aescot.teacher
        if teacher.kind != "given":
            return dataset.split("train")
        records, left_out = given_records(teacher, dataset.records)
        if left_out:
            handle.note(f"{left_out} given critiques are of images that validation or test hold, and were left out")
        return records

    def _coldstart(self, handle: StageHandle) -> ColdStartResult:
        from cluster.pipeline.stages.coldstart import train_coldstart

        self._need("aescot", Finished)
        base = self._base_model()
        self._ray()
        model = policy_digest(self._config)
        with requested_capacity(self._config, "coldstart"):
            result = train_coldstart(
                self._config,
                base,
                self._folder / "aescot",
                self._folder / "coldstart",
                lambda step, metrics: handle.update(step, **metrics),
                self._where,
            )
        return replace(result, model=model)

    def _base_model(self) -> Path:
        """The model to start from; the embedded one is built into the run folder."""
        from rapo.models.folder import check_model_folder

        if self._config.policy.model != "embedded":
            check_model_folder(self._config.policy.model)
            return Path(self._base or self._config.policy.model)
        folder = self._folder / "policy"
        if not (folder / "config.json").is_file():
            from rapo.aescot.writer import phrases
            from rapo.families.tiny_model import build_tiny_model

            with whole_folder(folder) as aside:
                build_tiny_model(aside, self._config.policy.embedded, self._config.run.seed, phrases())
        return folder

    def _rapo(self, handle: StageHandle) -> RapoResult:
        from cluster.monitoring.recorder import RunRecorder
        from cluster.pipeline.stages.rapo import RapoStage
        from cluster.training.controller import TrainingData

        start = self._coldstart_model
        dataset = self._records()
        wanted, there = self._config.rapo.images_per_step, len(dataset.split("train"))
        if there < wanted:
            handle.note(f"{there} training images: every step takes all of them, not rapo.images_per_step = {wanted}")
        out = self._folder / "rapo"
        recorder = RunRecorder(self._config, out, handle.note, lambda step, figures: handle.update(step, **figures))
        data = TrainingData(dataset.split("train"), dataset.split("validation"), dataset.weights)
        fleet = self._new_fleet(recorder)
        result = RapoStage(self._config, data, start, out, fleet, recorder, handle.note, self._where).train()
        busier = min(result.idle, key=lambda side: result.idle[side])
        shares = ", ".join(f"{side} {share:.0%}" for side, share in result.idle.items())
        handle.note(f"idle: {shares}; the {busier} side is what the other waits for")
        return RapoResult(
            model=str(result.folder),
            step=result.step,
            steps=result.steps,
            validation=result.validation,
            idle=result.idle,
        )

    def _evaluate(self, handle: StageHandle) -> EvaluateResult:
        from cluster.pipeline.stages.evaluate import Evaluator
        from cluster.terminal.interval_line import interval_line

        models = {"coldstart": self._coldstart_model, "rapo": Path(self._need("rapo", RapoResult).model)}
        fleet = self._fleet
        if fleet is None:
            fleet = self._new_fleet()
            fleet.start(models["coldstart"], 0)
            fleet.ready()
        dataset, out = self._records(), self._folder / "evaluate"
        evaluator = Evaluator(self._config, fleet, dataset.split("test"), self._folder / "aescot", out)
        # Only the model that is exported gets intervals.
        validation = {"rapo": dataset.split("validation")}
        for version, (name, model) in enumerate(models.items()):
            fleet.load_folder(model, version)
            result = evaluator.evaluate(name, validation.get(name))
            grounding = result["explanations"]["grounding"]["mean"]
            handle.update(None, **{f"{name}_srcc": result["srcc"], f"{name}_grounding": grounding})
            if line := interval_line(result):
                handle.note(line)
            judged = result["explanations"].get("judged")
            if judged is not None and judged["unjudged"]:
                handle.note(f"{judged['unjudged']} rationales of {name} got no verdict: {judged['problem']}")
        evaluator.compare()
        return EvaluateResult()

    def _export(self, handle: StageHandle) -> ExportResult:
        from cluster.pipeline.stages.calibration import read_calibration
        from cluster.pipeline.stages.export import export_model

        self._need("evaluate", Finished)
        trained = self._need("rapo", RapoResult)
        result = _evaluation(self._folder / "evaluate", "rapo")
        data = self._data_facts()
        facts = {
            "dataset": data.name,
            "native_range": data.native_range,
            "normalizer": data.normalizer,
            **({"sets": data.sets} if len(data.sets) > 1 else {}),
            "step": trained.step,
            "test": {
                "srcc": result["srcc"],
                "plcc": result["plcc"],
                "krcc": result["krcc"],
                "mae": result["mae"],
                "parse_rate": result["parse_rate"],
                "n": result["n"],
            },
            "interval": read_calibration(self._config, self._folder / "evaluate"),
            "versions": versions(),
        }
        exported = export_model(self._config, Path(trained.model), self._folder / "export", facts)
        handle.update(version=exported.version)
        return exported

    def _serve(self, handle: StageHandle) -> ServeResult:
        from cluster.pipeline.stages.serve import score_over_grpc

        self._need("export", Finished)
        if not self._config.serve.demo_images:
            handle.note("skipped: serve.demo_images is 0")
            return ServeResult(images=0, failed=0, scoring_seconds=None, max_abs_difference=None)
        self._close_fleet()
        self._ray()
        with requested_capacity(self._config, "serve"):
            return score_over_grpc(self._config, self._folder, handle.update, self._where or Path)


def _comparison(folder: Path) -> Comparison | None:
    """The figures by data set, where there are several."""
    from rapo.evaluation import comparison

    if not (folder / RESULTS).is_file():  # an evaluation from before there were tables
        return None
    found = read_json_as(folder / RESULTS, comparison.Comparison)
    return found if len(found["sets"]) > 1 else None


def _evaluation(folder: Path, model: str) -> ModelEvaluation:
    from rapo.explanations import evaluate

    return read_json_as(folder / f"{model}.json", evaluate.ModelEvaluation)
