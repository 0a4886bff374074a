"""A run from images with scores to a served scorer: the stages in order, each skipped where it is
already finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.files.alerts import read_alerts
from cluster.files.atomic import disk_full_named, read_json
from cluster.files.run_folder import RunFolder
from cluster.files.versions import versions
from cluster.pipeline.stages.data import load_data
from cluster.remote.ray_session import ray_session
from cluster.terminal.console import Console, StageHandle
from rapo.config import Config
from rapo.errors import RunFolderError
from rapo.util.atomic_dir import whole_folder

if TYPE_CHECKING:
    from cluster.rollout.fleet import Fleet
    from rapo.datasets import Dataset

#: Every stage, in order. Each needs what the ones before it left in the run folder.
STAGES = ("data", "aescot", "coldstart", "rapo", "evaluate", "export", "serve")


class Pipeline:
    """Runs stages in an open run folder. `stages` limits which; the others must be finished where
    they are needed."""

    def __init__(self, config: Config, folder: RunFolder, console: Console) -> None:
        self._config = config
        self._folder = folder
        self._console = console
        self._cleanup = ExitStack()
        self._fleet_: Fleet | None = None
        self._dataset: Dataset | None = None
        self._work: dict[str, Callable[[StageHandle], dict[str, Any]]] = {
            "data": self._data,
            "aescot": self._aescot,
            "coldstart": self._coldstart,
            "rapo": self._rapo,
            "evaluate": self._evaluate,
            "export": self._export,
            "serve": self._serve,
        }

    def run(self, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
        """Run what is not finished; the report. A stage that was run by hand ends with its own
        stage, without a report."""
        with self._cleanup:
            for stage in stages:
                done = self._folder.finished(stage)
                if done is not None:
                    self._console.skip(stage, f"finished before, in {done['seconds']:.0f} s")
                    continue
                began = time.perf_counter()
                with self._console.stage(stage, self._total(stage)) as handle, disk_full_named(self._folder.path):
                    facts = self._work[stage](handle)
                self._folder.finish(stage, time.perf_counter() - began, **facts)
            report = self._report()
            if stages == STAGES:
                from cluster.report.build import write_report

                write_report(self._folder.path, report)
            return report

    # What a stage takes from the run folder.

    def _need(self, stage: str) -> dict[str, Any]:
        done = self._folder.finished(stage)
        if done is None:
            raise RunFolderError(f"stage '{stage}' is not finished in {self._folder.path}; run it first.")
        return done

    def _records(self) -> Dataset:
        if self._dataset is None:
            self._need("data")
            self._dataset = load_data(self._config, self._folder)
        return self._dataset

    @property
    def _coldstart_model(self) -> Path:
        self._need("coldstart")
        return self._folder / "coldstart" / "model"

    def _ray(self) -> None:
        self._cleanup.enter_context(ray_session(self._config))

    def _fleet(self) -> tuple[Fleet, bool]:
        """The rollout fleet, kept from one stage to the next because an engine takes long to start;
        whether it is new."""
        if self._fleet_ is not None:
            return self._fleet_, False
        from cluster.rollout.fleet import Fleet

        self._ray()
        self._fleet_ = Fleet(self._config)
        self._cleanup.callback(self._close_fleet)
        return self._fleet_, True

    def _close_fleet(self) -> None:
        if self._fleet_ is not None:
            self._fleet_.close()
            self._fleet_ = None

    def _total(self, stage: str) -> int | None:
        settings = self._config
        scenes = settings.data.scenes
        if stage == "aescot":
            return min(settings.aescot.images, len(self._records().split("train")))
        totals = {
            "data": scenes.train + scenes.validation + scenes.test if settings.data.path is None else None,
            "coldstart": settings.coldstart.steps,
            "rapo": settings.rapo.steps,
            "serve": settings.serve.demo_images or None,
        }
        return totals.get(stage)

    # The stages.

    def _data(self, handle: StageHandle) -> dict[str, Any]:
        self._dataset = load_data(self._config, self._folder, lambda done, _: handle.update(done))
        for skipped in self._dataset.skipped[:5]:
            handle.note(f"skipped {skipped['image']}: {skipped['detail']}")
        if len(self._dataset.skipped) > 5:
            handle.note(f"and {len(self._dataset.skipped) - 5} more; all are in data/summary.json")
        counts = self._dataset.info["counts"]
        handle.update(**{str(split): count for split, count in counts.items()})
        return {"counts": counts, "skipped": len(self._dataset.skipped)}

    def _aescot(self, handle: StageHandle) -> dict[str, Any]:
        from cluster.pipeline.stages.aescot import FEW, write_aescot

        train = self._records().split("train")
        self._ray()
        manifest = write_aescot(self._config, train, self._folder / "aescot", handle.update)
        handle.update(manifest["generated"], kept=manifest["kept"])
        if manifest["kept"] < FEW:
            handle.note(f"only {manifest['kept']} critiques were kept: the cold start will learn them by heart")
        return {"generated": manifest["generated"], "kept": manifest["kept"]}

    def _coldstart(self, handle: StageHandle) -> dict[str, Any]:
        from cluster.pipeline.stages.coldstart import train_coldstart

        self._need("aescot")
        base = self._base_model()
        self._ray()
        return train_coldstart(
            self._config,
            base,
            self._folder / "aescot",
            self._folder / "coldstart",
            lambda step, metrics: handle.update(step, **metrics),
        )

    def _base_model(self) -> Path:
        """The model to start from; the embedded one is built into the run folder."""
        from rapo.models.folder import check_model_folder

        if self._config.policy.model != "embedded":
            check_model_folder(self._config.policy.model)
            return Path(self._config.policy.model)
        folder = self._folder / "policy"
        if not (folder / "config.json").is_file():
            from rapo.aescot.writer import phrases
            from rapo.policy.tiny_model import build_tiny_model

            with whole_folder(folder) as aside:
                build_tiny_model(aside, self._config.policy.embedded, self._config.run.seed, phrases())
        return folder

    def _rapo(self, handle: StageHandle) -> dict[str, Any]:
        from cluster.pipeline.stages.rapo import train_rapo

        start = self._coldstart_model
        dataset = self._records()
        wanted, there = self._config.rapo.images_per_step, len(dataset.split("train"))
        if there < wanted:
            handle.note(f"{there} training images: every step takes all of them, not rapo.images_per_step = {wanted}")
        self._close_fleet()
        fleet, _ = self._fleet()
        return train_rapo(
            self._config,
            dataset,
            start,
            self._folder / "rapo",
            fleet,
            lambda step, metrics: handle.update(step, **metrics),
            handle.note,
        )

    def _evaluate(self, handle: StageHandle) -> dict[str, Any]:
        from cluster.pipeline.stages.evaluate import evaluate_model

        models = {"coldstart": self._coldstart_model, "rapo": Path(self._need("rapo")["model"])}
        fleet, new = self._fleet()
        if new:
            fleet.start(models["coldstart"], 0)
            fleet.ready()
        results = {}
        for version, (name, model) in enumerate(models.items()):
            fleet.load_folder(model, version)
            records = self._records().split("test")
            results[name] = evaluate_model(self._config, fleet, records, name, self._folder / "evaluate")
            handle.update(**{f"{name}_srcc": results[name]["srcc"]})
        return {}

    def _export(self, handle: StageHandle) -> dict[str, Any]:
        from cluster.pipeline.stages.export import export_model

        self._need("evaluate")
        trained = self._need("rapo")
        result = read_json(self._folder / "evaluate" / "rapo.json")
        info = read_json(self._folder / "data" / "summary.json")
        facts = {
            "dataset": info["name"],
            "native_range": info["native_range"],
            "normalizer": info["normalizer"],
            "step": trained["step"],
            "test": {key: result[key] for key in ("srcc", "plcc", "krcc", "mae", "parse_rate", "n")},
            "versions": versions(),
        }
        card = export_model(self._config, Path(trained["model"]), self._folder / "export", facts)
        handle.update(version=card["version"])
        return {"version": card["version"]}

    def _serve(self, handle: StageHandle) -> dict[str, Any]:
        """Serve the export for a moment and score test images over gRPC, so that a run ends with
        proof that it can."""
        from cluster.pipeline.stages.serve import score_over_grpc

        self._need("export")
        if not self._config.serve.demo_images:
            handle.note("left out: serve.demo_images is 0")
            return {"images": 0, "failed": 0, "scoring_seconds": None, "max_abs_difference": None}
        self._close_fleet()
        self._ray()
        return score_over_grpc(self._config, self._folder, handle.update)

    def _report(self) -> dict[str, Any]:
        """Everything that the finished stages left, for machines."""
        finished = {stage: done for stage in STAGES if (done := self._folder.finished(stage)) is not None}
        report: dict[str, Any] = {
            "run": {"seed": self._config.run.seed, "dir": str(self._folder.path)},
            "stages": {stage: {"seconds": done["seconds"]} for stage, done in finished.items()},
            "versions": versions(),
        }
        if "data" in finished:
            info = read_json(self._folder / "data" / "summary.json")
            report["data"] = {key: info[key] for key in ("name", "counts", "native_range", "skipped", "normalizer")}
        if "aescot" in finished:
            report["aescot"] = read_json(self._folder / "aescot" / "manifest.json")
        if "rapo" in finished:
            report["alerts"] = read_alerts(self._folder.path)
        if "evaluate" in finished:
            report["evaluate"] = {
                name: read_json(self._folder / "evaluate" / f"{name}.json") for name in ("coldstart", "rapo")
            }
        if "serve" in finished:
            served = finished["serve"]
            report["served"] = {
                "images": served["images"],
                "failed": served["failed"],
                "seconds": served["scoring_seconds"],
                "max_abs_difference": served["max_abs_difference"],
            }
        return report
