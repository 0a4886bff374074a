"""The rollout fleet: workers that draw groups and predictions, all from one verified weight version."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.rollout import RolloutWorker
from cluster.waiting import wait, wait_each, wait_ready
from cluster.weights import WeightVersion
from rapo.config import Config
from rapo.errors import WeightError
from rapo.inference.environment import engine_environment
from rapo.records import ImageRecord, Prediction

T = TypeVar("T")


class Fleet:
    """Rollout workers as Ray actors. `close` ends them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        settings = config.rollout
        options = {
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus,
            "runtime_env": {"env_vars": engine_environment(settings.threads, settings.engine.kv_cache_gib)},
        }
        self._workers = [
            RolloutWorker.options(**options).remote(f"rollout-{i}", config)  # type: ignore[attr-defined]
            for i in range(settings.workers)
        ]

    def __len__(self) -> int:
        return len(self._workers)

    def start(self, model_dir: Path, version: int) -> list[Any]:
        """Begin to start all engines on a model folder as `version`; the refs to wait for (see `ready`)."""
        return [worker.start.remote(str(model_dir), version) for worker in self._workers]

    def ready(self, started: Sequence[Any]) -> list[dict[str, Any]]:
        return wait_each(started, role="rollout worker", timeout_s=self._config.rollout.start_timeout_s)

    def load(self, weights: WeightVersion) -> None:
        """Every worker pulls and verifies `weights`; returns when all hold it."""
        calls = [worker.load.remote(weights.manifest, *weights.chunks) for worker in self._workers]
        versions = wait_each(calls, role="rollout worker", timeout_s=self._config.rollout.load_timeout_s)
        if any(version != weights.version for version in versions):
            raise WeightError(f"the fleet holds versions {sorted(set(versions))}, not {weights.version}")

    def load_folder(self, folder: Path, version: int) -> None:
        """Every worker loads a model folder as `version`."""
        calls = [worker.load_folder.remote(str(folder), version) for worker in self._workers]
        wait_each(calls, role="rollout worker", timeout_s=self._config.rollout.load_timeout_s)

    def groups(self, records: Sequence[ImageRecord], step: int) -> list[Any]:
        """Refs of one group per record, in order."""
        refs: list[Any] = []
        for worker, part in zip(self._workers, split(records, len(self._workers)), strict=False):
            if part:
                made = worker.generate.options(num_returns=len(part)).remote(part, step)
                refs += made if isinstance(made, list) else [made]
        return wait_ready(refs, role="rollout worker", timeout_s=self._config.rollout.generate_timeout_s)

    def predictions(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Greedy predictions for records, in order."""
        parts = split(records, len(self._workers))
        calls = [w.predict.remote(part) for w, part in zip(self._workers, parts, strict=False) if part]
        limit = self._config.rollout.generate_timeout_s
        return [p for part in wait(calls, role="rollout worker", timeout_s=limit) for p in part]

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []


def split(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """`items` in `parts` nearly equal runs, in order; runs may be empty."""
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(bounds)]
