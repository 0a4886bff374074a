"""The rollout fleet: workers that draw groups and predictions, each from verified weights.

Groups stream: `submit` queues one, `poll` gives what has been drawn since. Each goes to the worker with the least to do, up to
what fills its engine, and only to one whose weights are new enough for it; the rest waits here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.rollout import RolloutWorker
from cluster.ray_session import log_folder
from cluster.waiting import get_each, wait, wait_each
from cluster.weights import WeightVersion
from rapo.config import Config
from rapo.errors import RoleError
from rapo.inference.environment import engine_environment
from rapo.records import ImageRecord, Prediction

T = TypeVar("T")

#: Images that a worker decodes at once: a whole test set of photographs would not fit into its memory.
_PIECE = 256

#: What a worker says of a group that it drew, see `RolloutWorker.generate`.
Receipt = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A group to draw: the `record` with its encoded `image` as a ref, the `step` that its seeds come from, the `ticket` that its
    result is known by, and the least weight version that may draw it."""

    ticket: int
    record: ImageRecord
    image: Any
    step: int
    needs: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A ref to the group of a task, and the receipt."""

    task: Task
    group: Any
    receipt: Receipt


@dataclass(slots=True)
class _Worker:
    name: str
    actor: Any
    version: int = 0
    running: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Load:
    worker: _Worker
    version: int
    deadline: float


@dataclass(frozen=True, slots=True)
class _Call:
    task: Task
    worker: _Worker
    group: Any
    deadline: float


class Fleet:
    """Rollout workers as Ray actors, of the class `worker`. `close` ends them."""

    def __init__(self, config: Config, worker: Any = RolloutWorker) -> None:
        self._config = config
        settings = config.rollout
        options = {
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus,
            "runtime_env": {"env_vars": engine_environment(settings.threads, settings.engine.kv_cache_gib)},
        }
        self._workers = [
            _Worker(f"rollout worker {i}", worker.options(**options).remote(f"rollout-{i}", config))
            for i in range(settings.workers)
        ]
        # One group more than fills the engine, so that it does not wait for the next.
        self._most = settings.max_groups or math.ceil(settings.engine.max_num_seqs / config.rapo.completions) + 1
        self._queue: deque[Task] = deque()
        self._calls: dict[Any, _Call] = {}
        self._loads: dict[Any, _Load] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def start(self, model_dir: Path, version: int) -> list[Any]:
        """Begin to start all engines on a model folder as `version`; the refs to wait for (see `ready`)."""
        for worker in self._workers:
            worker.version = version
        return [worker.actor.start.remote(str(model_dir), version) for worker in self._workers]

    def ready(self, started: Sequence[Any]) -> list[dict[str, Any]]:
        facts = self._each(started, self._config.rollout.start_timeout_s)
        for number, (worker, fact) in enumerate(zip(self._workers, facts, strict=True)):
            worker.name = f"rollout worker {number} on {fact['node']}"
        return facts

    def load(self, weights: WeightVersion) -> None:
        """Have every worker pull and verify `weights`; returns at once (see `loaded`). Groups under way finish before, or
        continue on the new weights (`rapo.in_flight`). A worker whose load fails refuses whatever it is asked next."""
        # Groups under way may have to finish first.
        deadline = time.monotonic() + self._load_limit_s
        for worker in self._workers:
            ref = worker.actor.load.remote(weights.manifest, *weights.chunks)
            self._loads[ref] = _Load(worker, weights.version, deadline)

    @property
    def _load_limit_s(self) -> float:
        return self._config.rollout.load_timeout_s + self._config.rollout.generate_timeout_s

    def loaded(self, meanwhile: Callable[[Sequence[Any]], None] | None = None) -> None:
        """Wait until every worker holds what `load` asked for last."""
        loads = dict(self._loads)
        names = [load.worker.name for load in loads.values()]
        try:
            versions = wait_each(list(loads), roles=names, timeout_s=self._load_limit_s, meanwhile=meanwhile)
        finally:  # a load that failed is over, too
            for ref in loads:
                self._loads.pop(ref, None)
        for load, version in zip(loads.values(), versions, strict=True):
            load.worker.version = version

    def load_folder(self, folder: Path, version: int) -> None:
        """Every worker loads a model folder as `version`."""
        calls = [worker.actor.load_folder.remote(str(folder), version) for worker in self._workers]
        for worker, held in zip(self._workers, self._each(calls, self._config.rollout.load_timeout_s), strict=True):
            worker.version = held

    @property
    def busy_seconds(self) -> float:
        """How long the workers' engines have worked, added up, as far as their latest receipts tell."""
        return sum(worker.busy_s for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Queue a group; returns at once."""
        self._queue.append(task)
        self._dispatch()

    def poll(self, timeout_s: float, others: Sequence[Any] = ()) -> list[Drawn]:
        """The groups drawn since the last call. Waits for the first of them, for a load or for one of `others`, but no longer
        than `timeout_s`.

        Raises `RoleError`, or the error of ours that a worker raised, where a group or a load failed or took too long.
        """
        self._dispatch()  # a load may have been waited for elsewhere
        own = [*self._loads, *self._calls]
        if not own and self._queue:
            needs = min(task.needs for task in self._queue)
            raise RoleError(f"no rollout worker holds weight version {needs} or a newer one, and none is on its way")
        if not own and not others:
            return []
        refs = list(dict.fromkeys([*others, *own]))
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
        if not done:
            self._check_deadlines()
            return []
        ready, _ = ray.wait(own, num_returns=len(own), timeout=0.0, fetch_local=False) if own else ([], [])
        for ref in ready:
            if ref in self._loads:
                worker = self._loads.pop(ref).worker
                worker.version = wait(ref, role=worker.name, timeout_s=self._config.rollout.load_timeout_s)
        drawn = self._finish([ref for ref in ready if ref in self._calls])
        self._check_deadlines()
        self._dispatch()
        return drawn

    def _dispatch(self) -> None:
        limit = self._config.rollout.generate_timeout_s
        waiting: deque[Task] = deque()
        while self._queue:
            task = self._queue.popleft()
            able = [w for w in self._workers if w.running < self._most and w.version >= task.needs]
            if not able:
                waiting.append(task)
                continue
            worker = min(able, key=lambda w: w.running)
            receipt, group = worker.actor.generate.remote(task.record, task.image, task.step)
            worker.running += 1
            self._calls[receipt] = _Call(task, worker, group, time.monotonic() + limit)
        self._queue = waiting

    def _finish(self, receipts: Sequence[Any]) -> list[Drawn]:
        calls = [self._calls.pop(receipt) for receipt in receipts]
        roles = [call.worker.name for call in calls]
        said = get_each(receipts, roles=roles, timeout_s=self._config.rollout.generate_timeout_s)
        for call, receipt in zip(calls, said, strict=True):
            call.worker.running -= 1
            call.worker.busy_s = max(call.worker.busy_s, receipt["busy_seconds"])
        return [Drawn(call.task, call.group, receipt) for call, receipt in zip(calls, said, strict=True)]

    def _check_deadlines(self) -> None:
        now, limits = time.monotonic(), self._config.rollout
        for call in self._calls.values():
            if call.deadline < now:
                raise RoleError(
                    f"{call.worker.name} did not draw {call.task.record.uid} within {limits.generate_timeout_s:.0f} s "
                    f"(rollout.generate_timeout_s). Logs: {log_folder()}"
                )
        for load in self._loads.values():
            if load.deadline < now:
                raise RoleError(
                    f"{load.worker.name} did not load weight version {load.version} within {self._load_limit_s:.0f} s "
                    f"(rollout.load_timeout_s + rollout.generate_timeout_s). Logs: {log_folder()}"
                )

    def predictions(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Greedy predictions for records, in order."""
        predictions: list[Prediction] = []
        limit = self._config.rollout.generate_timeout_s
        piece = _PIECE * len(self._workers)
        for start in range(0, len(records), piece):
            parts = split(records[start : start + piece], len(self._workers))
            shares = [share for share in zip(self._workers, parts, strict=True) if share[1]]
            calls = [worker.actor.predict.remote(part) for worker, part in shares]
            for answer in wait_each(calls, roles=[worker.name for worker, _ in shares], timeout_s=limit):
                predictions += answer
        return predictions

    def _each(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        return wait_each(calls, roles=[worker.name for worker in self._workers], timeout_s=timeout_s)

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []
        self._calls, self._loads = {}, {}


def split(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """`items` in `parts` nearly equal runs, in order; runs may be empty."""
    bounds = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(bounds)]
