"""The RAPO loop: draw, roll out, reward, learn, publish. It holds refs, not data.

Rollouts may run ahead of the learner by at most `rapo.max_staleness` (eta) batches: batch b is asked for only once step
`b - eta` has begun. A worker does what it is asked in order, so weights published while it draws are loaded right after, every
group has one version, and none is older than eta when it is used; that is checked all the same.
With eta 0 sampler and learner take turns, and with fixed seeds a run is a function of its configuration.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors.reward import RewardScorer
from cluster.files import append_jsonl
from cluster.fleet import Fleet, Request
from cluster.learners import LearnerGroup
from cluster.waiting import wait
from cluster.weights import WeightVersion
from rapo.batching import BatchSampler
from rapo.config import Config
from rapo.errors import RoleError
from rapo.images import read_image_bytes
from rapo.metrics import evaluate_predictions
from rapo.records import ImageRecord

#: Scoring a step is vectorised arithmetic on a few thousand numbers; more than this means that the actor is gone.
_REWARD_TIMEOUT_S = 300.0


@dataclass(slots=True)
class Best:
    """The best validation result so far and the folder that holds its model."""

    srcc: float = float("-inf")
    step: int = 0
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop left behind: the selected model's folder and the step it comes from."""

    folder: Path
    step: int
    validation: list[dict[str, Any]] = field(default_factory=list)


class Controller:
    """Runs `config.rapo.steps` steps. `start_dir` is the cold-start model; `out` gets metrics and checkpoints."""

    def __init__(self, config: Config, fleet: Fleet, learners: LearnerGroup, start_dir: Path, out: Path) -> None:
        self._config = config
        self._fleet = fleet
        self._learners = learners
        self._start_dir = start_dir
        self._out = out
        self._reward: Any = RewardScorer.options(num_cpus=0.5).remote(config)  # type: ignore[attr-defined]
        self._best = Best()
        self._loading: list[Any] = []
        self._validation: list[dict[str, Any]] = []

    def run(
        self,
        train: Sequence[ImageRecord],
        validation: Sequence[ImageRecord],
        progress: Callable[[int, dict[str, float]], None],
    ) -> Outcome:
        settings = self._config.rapo
        sampler = BatchSampler(
            train, settings.images_per_step, seed=self._config.run.seed, mix_datasets=settings.mix_datasets
        )
        self._validate(0, validation, None, progress)
        weights = None
        ahead: deque[_Batch] = deque()
        for step in range(settings.steps):
            while len(ahead) <= settings.max_staleness and step + len(ahead) < settings.steps:
                ahead.append(self._ask(sampler, step + len(ahead)))
            weights, row = self._step(step, ahead.popleft())
            append_jsonl(self._out / "metrics.jsonl", row)
            progress(step + 1, {"reward": row["reward_mean"], "parsed": row["parse_rate"]})
            if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
                self._validate(step + 1, validation, weights, progress)
        assert weights is not None
        folder = self._select(weights)
        return Outcome(folder, self._best.step if settings.select == "best" else settings.steps, self._validation)

    def _ask(self, sampler: BatchSampler, step: int) -> _Batch:
        """Have the fleet draw the batch of a step; returns at once."""
        records = [_with_data(record, self._config) for record in sampler.batch(step)]
        images = ray.put({record.uid: record.data for record in records})
        return _Batch(records, images, self._fleet.request(records, step))

    def _step(self, step: int, batch: _Batch) -> tuple[WeightVersion, dict[str, Any]]:
        """One optimiser step on one group per record; the weights it made and its metrics."""
        clock = _Clock()
        try:
            groups, receipts = self._fleet.groups(batch.request)
        except RoleError:
            self._fleet.loaded(self._loading)  # a load that failed is why a worker refuses; it is the better error
            raise
        worst = max(step - receipt["version"] for receipt in receipts)
        if worst > self._config.rapo.max_staleness:
            raise RoleError(f"a group of step {step} is {worst} steps old; rapo.max_staleness allows fewer")
        clock.lap("rollout")
        ranks = self._config.learner.workers
        metrics_ref, *shares = self._reward.score.options(num_returns=1 + ranks).remote(*groups)
        metrics = wait(metrics_ref, role="reward actor", timeout_s=_REWARD_TIMEOUT_S)
        clock.lap("reward")
        metrics |= self._learners.step(shares, batch.images)
        clock.lap("learner")
        weights = self._learners.publish(step + 1)
        self._fleet.loaded(self._loading)
        self._loading = self._fleet.load(weights)
        if self._config.rapo.max_staleness == 0:
            self._fleet.loaded(self._loading)
        clock.lap("weights")
        lags = [step - receipt["version"] for receipt in receipts]
        busy = sum(receipt["seconds"] for receipt in receipts) / len(receipts)
        return weights, {
            "step": step + 1,
            **metrics,
            "staleness_mean": sum(lags) / len(lags),
            "staleness_worst": worst,
            "idle_learner": 1.0 - clock.laps["learner"] / clock.total,
            "idle_rollout": max(0.0, 1.0 - busy / clock.total),
            "seconds": clock.laps,
        }

    def _validate(
        self,
        step: int,
        records: Sequence[ImageRecord],
        weights: WeightVersion | None,
        progress: Callable[[int, dict[str, float]], None],
    ) -> None:
        """Measure the current weights on the validation images; keep the model where it is the best yet."""
        if not records:
            return
        began = time.perf_counter()
        result = evaluate_predictions(self._fleet.predictions(records), bootstrap=0, seed=0)
        row = {"step": step, "validation": result, "seconds": {"validation": time.perf_counter() - began}}
        append_jsonl(self._out / "metrics.jsonl", row)
        self._validation.append({"step": step, **result})
        srcc = result["srcc"]
        if srcc is not None:
            progress(step, {"srcc": srcc})
        if self._config.rapo.select == "best" and srcc is not None and srcc > self._best.srcc:
            before = self._best.folder
            self._best = Best(srcc, step, self._start_dir if weights is None else self._save(step, weights))
            if before is not None and before != self._start_dir:
                shutil.rmtree(before, ignore_errors=True)  # the best is kept, not the history of bests

    def _save(self, step: int, weights: WeightVersion) -> Path:
        folder = self._out / "checkpoints" / f"step-{step:06d}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._learners.save_model(folder, self._start_dir, weights)
        return folder

    def _select(self, last: WeightVersion) -> Path:
        """The folder of the selected model. Without a validation result there is nothing to choose by: the last."""
        if self._config.rapo.select == "best" and self._best.folder is not None:
            return self._best.folder
        self._best.step = self._config.rapo.steps
        return self._save(self._config.rapo.steps, last)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch on its way: its records, a ref to their encoded images by uid, and the groups asked for."""

    records: list[ImageRecord]
    images: Any
    request: Request


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return max(1e-9, sum(self.laps.values()))


def _with_data(record: ImageRecord, config: Config) -> ImageRecord:
    """The record with its encoded bytes in place of its path, read once for sampler and learner alike."""
    return dataclasses.replace(record, data=read_image_bytes(record, config.image), path=None)
