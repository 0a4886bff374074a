"""WorkQueue: groups to sample and images to predict, from being asked for to their results.

- A worker gets a task only with weights that it has verified and that are new enough for it.
- The tasks of a lost worker are given to others. A group may be sampled more than once, and is
  handed out exactly once.
- A task that several workers in a row were lost with ends the run.
- Workers get the bytes of images, never a path.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from actors.messages import GroupReceipt
from cluster.remote.faults import cause_of
from cluster.rollout.listener import FleetListener, WorkerEvent
from cluster.rollout.membership import Membership, WorkerCalls, is_input_error
from cluster.rollout.scheduler import assign
from cluster.rollout.tasks import EvalShard, InFlightCall, QueuedTask, RolloutResult, Task, shards
from cluster.rollout.weight_sync import WeightSync
from cluster.rollout.worker_handle import WorkerHandle, WorkerState
from rapo.config import Config
from rapo.errors import RapoError, RoleError, WeightError
from rapo.records import Group, ImageRecord, Prediction

if TYPE_CHECKING:
    from ray import ObjectRef

#: A task that was lost with so many workers one after the other is taken to be the cause.
_POISON = 5

#: States of a worker that can work, now or as soon as it has loaded.
_SHARING = (WorkerState.HEALTHY, WorkerState.SYNCING, WorkerState.READY)


class WorkQueue:
    """Gives the tasks that are asked for to the workers of `members`."""

    def __init__(
        self, config: Config, members: Membership, weights: WeightSync, calls: WorkerCalls, listener: FleetListener
    ) -> None:
        self._limits = config.rollout
        self._images = config.image
        # One group more than fills the engine, so that it does not wait for the next.
        self._most = (
            self._limits.max_groups or math.ceil(self._limits.engine.max_num_seqs / config.rapo.completions) + 1
        )
        self._members = members
        self._weights = weights
        self._calls = calls
        self._listener = listener
        self._queue: deque[QueuedTask] = deque()
        self._results: list[RolloutResult] = []
        self._asked = 0
        self._predicted: dict[int, Sequence[Prediction]] = {}  # by the place of the first of them
        #: How long the workers' engines have worked, added up, as far as their receipts tell.
        self.busy_seconds = 0.0

    @property
    def waiting(self) -> int:
        """The number of tasks that no worker has yet."""
        return len(self._queue)

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    def submit(self, task: Task) -> None:
        self._queue.append(QueuedTask(task))

    def take_results(self) -> list[RolloutResult]:
        """The groups that have come since the last call."""
        results, self._results = self._results, []
        return results

    def submit_predictions(self, records: Sequence[ImageRecord]) -> None:
        """Ask for predictions, from the newest weights; they come before what is queued."""
        parts = shards(records, self._sharing, self._weights.epoch)
        self._asked, self._predicted = len(records), {}
        self._queue.extendleft(QueuedTask(shard) for shard in reversed(parts))

    def take_predictions(self) -> list[Prediction] | None:
        """All predictions in the order of their records, None until the last has come."""
        if sum(map(len, self._predicted.values())) < self._asked:
            return None
        return [prediction for first in sorted(self._predicted) for prediction in self._predicted[first]]

    def forget(self) -> None:
        """Drop everything that was asked for."""
        self._queue.clear()
        self._results = []
        for worker in self._members.workers:
            for call in worker.calls:
                call.queued.wanted = False

    def dispatch(self) -> None:
        """Give queued tasks to workers."""
        if not self._queue:
            return
        # No worker gets more than a fair share, or after an update the first to have loaded would
        # take everything. As tasks end, the shares of what is left move on to the workers that
        # work, so that one that stays away holds up nothing.
        # One pass, because this runs whenever a group comes, and there may be hundreds of workers.
        outstanding, sharing, able = len(self._queue), 0, []
        for worker in self._members.workers:
            calls = len(worker.calls)
            outstanding += calls
            if worker.state is WorkerState.READY:
                sharing += 1
                if calls < self._most:
                    able.append(worker)
            elif worker.state in _SHARING:
                sharing += 1
        most = min(self._most, math.ceil(outstanding / max(1, sharing)))
        free = (worker for worker in able if len(worker.calls) < most)
        assign(self._queue, free, most, self._eligible, self._send)

    def put_back(self, calls: Iterable[InFlightCall], error: RapoError) -> None:
        """Queue the tasks of a lost worker again, first. Raises `RoleError` where one of them was
        lost with too many workers."""
        for call in reversed(list(calls)):
            queued = call.queued
            if not queued.wanted:
                continue
            queued.lost += 1
            if queued.lost >= _POISON:
                raise RoleError(
                    f"{queued.task.what} was under way on {queued.lost} rollout workers that were lost one after the "
                    f"other; the last: {error}"
                ) from error
            self._queue.appendleft(queued)

    @property
    def _sharing(self) -> int:
        return sum(worker.state in _SHARING for worker in self._members.workers)

    def _eligible(self, worker: WorkerHandle, task: Task | EvalShard) -> bool:
        """Whether a worker's weights are new enough for a task, and it has room for it."""
        if not self._weights.usable(worker):
            return False
        if isinstance(task, Task):
            return worker.weight_version is not None and worker.weight_version >= task.min_version
        predicting = any(isinstance(call.queued.task, EvalShard) for call in worker.calls)
        return worker.weight_epoch >= task.weight_epoch and not predicting

    def _send(self, worker: WorkerHandle, queued: QueuedTask) -> None:
        task = queued.task
        group: ObjectRef[Group] | None = None
        answer: ObjectRef[GroupReceipt] | ObjectRef[list[Prediction]]
        if isinstance(task, Task):
            answer, group = worker.actor.generate.remote(task.record, task.image, task.step)
        else:
            records = task.with_bytes(self._images)
            if len(records) < len(task.records):
                queued.task, rest = task.split(len(records))
                self._queue.appendleft(QueuedTask(rest))
            answer = worker.actor.predict.remote(records)
        call = InFlightCall(queued, group)
        worker.calls[call] = time.monotonic() + self._limits.generate_timeout_s
        self._calls.watch(answer, (worker, partial(self._ended, worker, call)))
        if "routed" not in worker.times:
            worker.times["routed"] = time.time()
            self._listener.worker(WorkerEvent.ROUTED, worker)

    def _ended(self, worker: WorkerHandle, call: InFlightCall, value: object, error: Exception | None) -> None:
        if error is not None:
            self._failed(worker, call, error)
            return
        del worker.calls[call]
        self._members.seen_working(worker)
        if call.queued.wanted:
            self._keep(worker, call, value)

    def _failed(self, worker: WorkerHandle, call: InFlightCall, error: Exception) -> None:
        cause = cause_of(error)
        if isinstance(cause, WeightError):  # a load failed meanwhile; another worker may do it
            del worker.calls[call]
            self._queue.appendleft(call.queued)
            return
        if is_input_error(error):
            raise cause from error
        self._members.lose(worker, error)

    def _keep(self, worker: WorkerHandle, call: InFlightCall, value: object) -> None:
        """Keep the result of a call."""
        task = call.queued.task
        if isinstance(task, EvalShard):
            assert isinstance(value, list)
            self._predicted[task.first] = value
            return
        assert isinstance(value, GroupReceipt)
        assert call.group is not None
        self.busy_seconds += max(0.0, value.busy_seconds - worker.busy_s)
        worker.busy_s = max(worker.busy_s, value.busy_seconds)
        worker.groups += 1
        worker.tokens += value.tokens
        self._results.append(RolloutResult(task, call.group, value))
