"""The rollout fleet: workers that draw groups and predictions, all from one verified weight version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.rollout import RolloutWorker
from cluster.waiting import wait_each
from cluster.weights import WeightVersion
from rapo.config import Config
from rapo.inference.environment import engine_environment
from rapo.records import ImageRecord, Prediction

T = TypeVar("T")

#: Images that a worker decodes at once: a whole test set of photographs would not fit into its memory.
_PIECE = 256


#: What a worker says of a finished request: `version` of the weights it drew from, and the `seconds` it took.
Receipt = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """Groups under way: a ref per group, and a receipt and a name per worker that draws them."""

    groups: tuple[Any, ...]
    receipts: tuple[Any, ...]
    names: tuple[str, ...]


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
        self._names = [f"rollout worker {i}" for i in range(settings.workers)]

    def __len__(self) -> int:
        return len(self._workers)

    def start(self, model_dir: Path, version: int) -> list[Any]:
        """Begin to start all engines on a model folder as `version`; the refs to wait for (see `ready`)."""
        return [worker.start.remote(str(model_dir), version) for worker in self._workers]

    def ready(self, started: Sequence[Any]) -> list[dict[str, Any]]:
        facts = self._each(started, self._config.rollout.start_timeout_s)
        self._names = [f"rollout worker {i} on {fact['node']}" for i, fact in enumerate(facts)]
        return facts

    def load(self, weights: WeightVersion) -> list[Any]:
        """Have every worker pull and verify `weights`, after what it was asked before; the refs to wait for (see `loaded`).

        A worker whose load fails refuses whatever it is asked next.
        """
        return [worker.load.remote(weights.manifest, *weights.chunks) for worker in self._workers]

    def loaded(self, calls: Sequence[Any]) -> None:
        """Wait until every worker holds what `load` asked for."""
        self._each(calls, self._config.rollout.load_timeout_s + self._config.rollout.generate_timeout_s)

    def load_folder(self, folder: Path, version: int) -> None:
        """Every worker loads a model folder as `version`."""
        calls = [worker.load_folder.remote(str(folder), version) for worker in self._workers]
        self._each(calls, self._config.rollout.load_timeout_s)

    def request(self, records: Sequence[ImageRecord], step: int) -> Request:
        """Ask for one group per record; returns at once (see `groups`)."""
        receipts: list[Any] = []
        names: list[str] = []
        refs: list[Any] = []
        for worker, name, part in self._shares(records):
            receipt, *made = worker.generate.options(num_returns=1 + len(part)).remote(part, step)
            receipts.append(receipt)
            names.append(name)
            refs += made
        return Request(tuple(refs), tuple(receipts), tuple(names))

    def groups(self, request: Request) -> tuple[list[Any], list[Receipt]]:
        """Refs of the groups asked for, in the records' order, and the workers' receipts; returns when all are in the object
        store. The groups themselves are not fetched."""
        receipts = wait_each(request.receipts, roles=request.names, timeout_s=self._config.rollout.generate_timeout_s)
        return list(request.groups), receipts

    def predictions(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Greedy predictions for records, in order."""
        predictions: list[Prediction] = []
        limit = self._config.rollout.generate_timeout_s
        piece = _PIECE * len(self._workers)
        for start in range(0, len(records), piece):
            shares = self._shares(records[start : start + piece])
            calls = [worker.predict.remote(part) for worker, _, part in shares]
            for answer in wait_each(calls, roles=[name for _, name, _ in shares], timeout_s=limit):
                predictions += answer
        return predictions

    def _shares(self, records: Sequence[ImageRecord]) -> list[tuple[Any, str, Sequence[ImageRecord]]]:
        """`(worker, name, its records)` for every worker that gets any."""
        parts = split(records, len(self._workers))
        return [share for share in zip(self._workers, self._names, parts, strict=True) if share[2]]

    def _each(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        return wait_each(calls, roles=self._names, timeout_s=timeout_s)

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []


def split(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """`items` in `parts` nearly equal runs, in order; runs may be empty."""
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(bounds)]
