"""The RAPO loop: draw, roll out, reward, learn, publish. It holds refs, not data.

Synchronous: a step's groups come from the weights that the step before it made, so every group has staleness 0, and with fixed
seeds a run is a function of its configuration.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors.reward import RewardScorer
from cluster.files import append_jsonl
from cluster.fleet import Fleet
from cluster.learners import LearnerGroup
from cluster.waiting import wait
from cluster.weights import WeightVersion
from rapo.batching import BatchSampler
from rapo.config import Config
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
        for step in range(settings.steps):
            weights, row = self._step(step, sampler.batch(step))
            append_jsonl(self._out / "metrics.jsonl", row)
            progress(step + 1, {"reward": row["reward_mean"], "parsed": row["parse_rate"]})
            if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
                self._validate(step + 1, validation, weights, progress)
        assert weights is not None
        folder = self._select(weights)
        return Outcome(folder, self._best.step if settings.select == "best" else settings.steps, self._validation)

    def _step(self, step: int, records: list[ImageRecord]) -> tuple[WeightVersion, dict[str, Any]]:
        """One optimiser step on one group per record; the weights it made and its metrics."""
        clock = _Clock()
        batch = [_with_data(record, self._config) for record in records]
        images = ray.put({record.uid: record.data for record in batch})
        groups = self._fleet.groups(batch, step)
        clock.lap("rollout")
        ranks = self._config.learner.workers
        metrics_ref, *shares = self._reward.score.options(num_returns=1 + ranks).remote(*groups)
        metrics = wait(metrics_ref, role="reward", timeout_s=_REWARD_TIMEOUT_S)
        clock.lap("reward")
        metrics |= self._learners.step(shares, images)
        clock.lap("learner")
        weights = self._learners.publish(step + 1)
        self._fleet.load(weights)
        clock.lap("weights")
        return weights, {"step": step + 1, **metrics, "seconds": clock.laps}

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


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _with_data(record: ImageRecord, config: Config) -> ImageRecord:
    """The record with its encoded bytes in place of its path, read once for sampler and learner alike."""
    return dataclasses.replace(record, data=read_image_bytes(record, config.image), path=None)
