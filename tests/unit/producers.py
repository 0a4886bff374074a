"""Files of a run as the code that produces them writes them: the real controller, over roles that
compute nothing.

Tests of what reads these files (status, report, telemetry) use them, so that a key that is renamed
where it is written fails where it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import group
from fakes import as_ref

from actors.messages import GroupReceipt, RankFigures, RewardReceipt
from cluster.files.atomic import write_json
from cluster.files.parquet import write_parquet
from cluster.files.report import CritiqueCounts
from cluster.files.run_folder import RunFolder
from cluster.learner.group import merge_figures
from cluster.monitoring.run_state_writer import RunStateWriter
from cluster.pipeline.results import (
    AesCoTResult,
    ColdStartResult,
    DataResult,
    EvaluateResult,
    ExportResult,
    RapoResult,
    ServeResult,
)
from cluster.pipeline.stages.aescot import CRITIQUES, MANIFEST, CritiqueRow
from cluster.pipeline.stages.data import load_data
from cluster.pipeline.stages.evaluate import Evaluator
from cluster.remote.waiting import Waiting
from cluster.remote.weight_source import Receivers, WeightVersion
from cluster.rollout.tasks import RolloutResult, Task
from cluster.rollout.worker_handle import WorkerHandle, WorkerState, WorkerStatus
from cluster.training.controller import Controller, TrainingData, TrainingResult
from cluster.training.listener import TrainingListener
from rapo.aescot.writer import write_critique
from rapo.algorithm.scoring import score_groups
from rapo.answers.parse import format_completion
from rapo.config import Config, LossConfig, load_config
from rapo.datasets.load import Dataset
from rapo.policy.loss import Normalizer, TokenTerms, policy_loss
from rapo.records import DIMENSIONS, ImageRecord, Prediction, Split

#: Small enough for a unit test, and long enough for curves to be smoothed.
SMALL = (
    "run.seed=7",
    "data.scenes.train=16",
    "data.scenes.validation=24",
    "data.scenes.test=40",
    "data.scenes.size=64",
    "rapo.steps=40",
    "rapo.images_per_step=4",
    "rapo.completions=4",
    "rapo.evaluate_every=10",
    "rapo.checkpoint_every=100",
)


class FakeFleet:
    """Two workers: one that works, and one that is still loading weights."""

    def __init__(self, config: Config) -> None:
        self._completions = config.rapo.completions
        self._queue: list[Task] = []
        self.handles = [WorkerHandle(0, as_ref(), None), WorkerHandle(1, as_ref(), None)]
        for handle, state in zip(self.handles, (WorkerState.READY, WorkerState.SYNCING), strict=True):
            handle.node = f"node-{handle.number}"
            handle.move(state)
        self.wanted = 3
        self._predictions: list[Prediction] = []
        self.noise, self.invalid = 0.2, 0

    def receivers(self) -> Receivers | None:
        return None

    def newly_draining(self) -> frozenset[str]:
        return frozenset()

    def __len__(self) -> int:
        return 1

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy_seconds(self) -> float:
        return self.handles[0].busy_s

    def statuses(self) -> list[WorkerStatus]:
        return [handle.status() for handle in self.handles]

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def poll(self, timeout_s: float, others: Sequence[Any]) -> list[RolloutResult]:
        tasks, self._queue = self._queue, []
        return [self._sampled(task) for task in tasks]

    def _sampled(self, task: Task) -> RolloutResult:
        texts = [format_completion("soft light", round(0.2 + 0.1 * k, 2)) for k in range(self._completions)]
        made = group(task.record.uid, lengths=[5] * self._completions, texts=texts, target=task.record.score)
        worker = self.handles[0]
        worker.groups, worker.tokens = worker.groups + 1, worker.tokens + 5 * self._completions
        worker.busy_s += 0.01 * self._completions
        receipt = GroupReceipt(
            version=worker.weight_version or 0,
            tokens=5 * self._completions,
            seconds=0.1,
            busy_seconds=worker.busy_s,
            worker=worker.role,
        )
        return RolloutResult(task, as_ref(made), receipt)

    def load(self, weights: WeightVersion) -> None:
        self.handles[0].weight_version = weights.version

    def take_lost_version(self) -> int | None:
        return None

    def submit_predictions(self, records: Sequence[ImageRecord]) -> None:
        self._predictions = self.predictions(records)

    def take_predictions(self) -> list[Prediction]:
        return self._predictions

    def predictions(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Human scores with `noise`, less of it with every call; the first ones are `invalid`."""
        rng = np.random.default_rng(0)
        errors = self.noise * rng.normal(size=len(records))
        self.noise *= 0.7
        return [
            self._predicted(item, None if place < self.invalid else float(np.clip(item.score + error, 0.0, 1.0)))
            for place, (item, error) in enumerate(zip(records, errors, strict=True))
        ]

    def _predicted(self, item: ImageRecord, score: float | None) -> Prediction:
        text = "soft light" if score is None else format_completion("<script>soft light", score)
        reason = "no_think" if score is None else None
        return Prediction(item.uid, item.dataset, item.score, score, text, reason)


class FakeLearners:
    """One rank whose policy has just been sampled from."""

    ranks = ()

    def step(self, shares: object, images: object) -> Waiting[dict[str, float]]:
        yield []
        zeros, lengths = torch.zeros(8), torch.tensor([4, 4])
        terms = TokenTerms(zeros, zeros, torch.ones(8), torch.arange(2).repeat_interleave(4), lengths)
        loss, sums = policy_loss(terms, LossConfig(), Normalizer(2, 8, 4))
        rank = {"loss": float(loss), "entropy": 5.6, "grad_norm": 1.0, "learning_rate": 1e-5}
        return merge_figures([RankFigures.of(sums | rank, busy_seconds=0.001)])

    def publish(self, version: int, receivers: Receivers | None) -> WeightVersion:
        return WeightVersion(version, (as_ref(),), ())

    def published(self, weights: WeightVersion) -> Waiting[WeightVersion]:
        yield []
        return weights

    def hand_over(self) -> Waiting[None]:
        yield from ()

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> Waiting[None]:
        yield []
        folder.mkdir(parents=True)


class FakeRewards:
    """The reward actor's scoring, in this process."""

    process = None

    def __init__(self, config: Config) -> None:
        self._settings = config.rapo.reward

    def score(self, batch: Sequence[Any]) -> Waiting[tuple[RewardReceipt, list[Any]]]:
        yield []
        scored, metrics = score_groups([result.group for result in batch], self._settings)
        return RewardReceipt(metrics, (tuple(one.group.image_uid for one in scored),)), [as_ref()]


class StateListener(TrainingListener):
    """Writes the state whenever it has changed."""

    def __init__(self, state: RunStateWriter) -> None:
        self._state = state

    def changed(self) -> None:
        self._state.write()


def train(config: Config, out: Path, dataset: Dataset | None = None) -> tuple[TrainingResult, FakeFleet]:
    """Run the loop of `config`: `out` gets metrics.jsonl, alerts.jsonl and state.json."""
    fleet: Any = FakeFleet(config)
    learners: Any = FakeLearners()
    rewards: Any = FakeRewards(config)
    out.mkdir(parents=True, exist_ok=True)
    state = RunStateWriter(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.training.image_store.ray.put", lambda value: value)
        patch.setattr("cluster.training.image_store.own_store_bytes", lambda: 2**29)
        patch.setattr("cluster.monitoring.run_state_writer._PERIOD_S", 0.0)
        patch.setattr("cluster.remote.waiting.ray.wait", lambda refs, **limits: ([], refs))
        images = records if dataset is None else dataset.split
        data = TrainingData(images("train"), images("validation"))
        controller = Controller(config, data, fleet, learners, rewards, out, out, StateListener(state))
        state.follow(controller)
        return controller.run(), fleet


def records(split: Split) -> list[ImageRecord]:
    return [ImageRecord(f"{split}/{i}", "s", split, i / 16, i / 16, (0.0, 1.0), data=b"image") for i in range(16)]


def critiques(count: int) -> list[CritiqueRow]:
    """Critiques of the rule-based teacher on scores from 0 to 1."""
    rows = []
    for number in range(count):
        score = number / (count - 1)
        text = write_critique(str(number), dict.fromkeys(DIMENSIONS, score), score, np.random.default_rng(0), 0.0).text
        rows.append(CritiqueRow(str(number), "s", "", score, text, None, True, None, ""))
    return rows


def finished_run(out: Path) -> tuple[Config, RunFolder]:
    """A run folder in which every stage is finished."""
    config, folder = load_config(None, SMALL), RunFolder(out)
    with folder.open(config):
        dataset = load_data(config, folder)
        folder.finish(
            "data",
            1.0,
            DataResult({str(split): count for split, count in dataset.info["counts"].items()}, len(dataset.skipped)),
        )
        counts = CritiqueCounts(480, 431, {"factual": 37, "leak": 12}, "measured", [0.0, 0.5, 1.0], {}, 0)
        write_json(folder / "aescot" / MANIFEST, counts)
        write_parquet(folder / "aescot" / CRITIQUES, [asdict(row) for row in critiques(40)])
        folder.finish("aescot", 12.3, AesCoTResult(counts.generated, counts.kept))
        folder.finish("coldstart", 30.0, ColdStartResult(counts.kept, workers=2))
        trained, fleet = train(config, folder / "rapo", dataset)
        (folder / "rapo" / "state.json").unlink()  # a run that has ended has none
        folder.finish("rapo", 87.7, RapoResult("m", trained.step, trained.steps, trained.validation, trained.idle))
        measured: Any = fleet
        evaluator = Evaluator(config, measured, dataset.split("test"), folder / "aescot", folder / "evaluate")
        validation = {"rapo": dataset.split("validation")}
        for name, fleet.noise, fleet.invalid in (("coldstart", 0.2, 2), ("rapo", 0.05, 0)):
            evaluator.evaluate(name, validation.get(name))
        evaluator.compare()
        folder.finish("evaluate", 5.0, EvaluateResult())
        folder.finish("export", 1.0, ExportResult("0123456789ab"))
        folder.finish("serve", 4.0, ServeResult(24, 0, 1.9, 0.0))
    return config, folder
