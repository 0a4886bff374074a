"""Fleet: rollout workers that join, leave and die while a run goes on.

One thread uses a fleet. It does its work inside the calls that wait (`poll`, `ready`, `loaded`,
`predictions`): tasks are given out, calls that have ended are handled, then workers are checked.

- `membership.py`: which workers there are.
- `weight_sync.py`: which weights they hold.
- `work_queue.py`: which tasks they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from actors.rollout import RolloutWorker
from cluster.remote.actors import Launch, Launcher
from cluster.remote.needs import Need
from cluster.remote.placement import SharedRoom
from cluster.remote.ray_session import log_folder
from cluster.remote.waiting import to_user_error
from cluster.remote.weight_source import Folder, Receivers, WeightSource
from cluster.rollout.listener import FleetListener
from cluster.rollout.membership import Membership, WorkerCalls
from cluster.rollout.tasks import RolloutResult, Task
from cluster.rollout.weight_sync import WeightSync
from cluster.rollout.work_queue import WorkQueue
from cluster.rollout.worker_handle import WorkerHandle, WorkerState, WorkerStatus
from rapo.config import Config
from rapo.errors import FaultKind, RoleError
from rapo.records import ImageRecord, Prediction

if TYPE_CHECKING:
    from ray import ObjectRef

_POLL_S, _CHECK_S = 2.0, 0.5
#: How long a version waits for workers that are at the end of receiving the one before.
_SETTLE_S = 5.0


class Fleet:
    """Rollout workers that `launch` starts as Ray actors. `listener` receives the faults and the
    workers' events. `where` says where they find a model folder of this machine: there, or at a
    URL. `close` ends all."""

    def __init__(
        self,
        config: Config,
        launch: Launch = Launcher(RolloutWorker),
        listener: FleetListener | None = None,
        where: Callable[[Path], Path] = Path,
    ) -> None:
        listener = listener or FleetListener()
        self._limits = config.rollout
        self._where = where
        self._calls = WorkerCalls()
        self._members = Membership(
            config,
            launch,
            listener,
            self._calls,
            on_healthy=lambda worker: self._weights.adopt(worker),
            on_lost=lambda calls, error: self._work.put_back(calls, error),
        )
        self._weights = WeightSync(config.rollout, self._members, self._calls, listener)
        self._work = WorkQueue(config, self._members, self._weights, self._calls, listener)
        self._checked_at = 0.0

    # Workers.

    def __len__(self) -> int:
        """The number of workers that can be given tasks, now or in their turn."""
        return self._members.ready_count

    @property
    def workers(self) -> Sequence[WorkerHandle]:
        return self._members.workers

    @property
    def wanted(self) -> int:
        """The number of workers that there are to be."""
        return self._members.wanted

    def newly_draining(self) -> frozenset[str]:
        """The host names of nodes that are about to go, each told once."""
        return self._members.newly_draining()

    def statuses(self) -> list[WorkerStatus]:
        return [worker.status() for worker in self._members.workers]

    def start(self, model_dir: Path, version: int) -> None:
        """Begin to start all workers on a model folder, as `version`; returns at once (see
        `ready`). Workers that are there already load it."""
        self._work.forget()
        if self._members.workers:
            self.load_folder(model_dir, version)
        model = Folder(self._where(model_dir), version)
        self._weights.start_from(model)
        self._members.start(model)

    def ready(self) -> list[WorkerStatus]:
        """Wait until every worker is ready. At the limit `rollout.start_timeout_s` those that are
        ready are enough, if there are any.

        Raises `RoleError`, or the `RapoError` that a worker raised, where none gets ready.
        """
        deadline = time.monotonic() + self._limits.start_timeout_s
        while len(self) < self.wanted:
            if time.monotonic() > deadline:
                if len(self):
                    break
                states = ", ".join(f"{worker.name} is {worker.state}" for worker in self._members.workers)
                raise RoleError(
                    f"no rollout worker was ready within {self._limits.start_timeout_s:.0f} s (rollout.start_timeout_s): "
                    f"{states}. Logs: {log_folder()}"
                )
            self._poll_once(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        return self.statuses()

    def resize(self, workers: int) -> int:
        """Have `workers` from now on, within 1 and `rollout.max_workers`; the number wanted then.
        Joining and leaving go on beside the work."""
        return self._members.resize(workers)

    def beside(self, needs: Sequence[Need]) -> AbstractContextManager[None]:
        """For the length of the block, have the autoscaler keep room for these processes as
        well."""
        return self._members.beside(needs)

    # Turns on the GPUs of a colocated run.

    @property
    def room(self) -> SharedRoom | None:
        """What the workers share with learner ranks; None where they do not."""
        return self._members.room

    @property
    def asleep(self) -> bool:
        """Whether the engines sleep."""
        return self._members.asleep

    @property
    def waking_seconds(self) -> float:
        """How long it took from each `wake` until a worker could be given tasks, added up."""
        return self._weights.waking_seconds

    def sleep(self) -> None:
        """Have all engines give up their memory, once their calls have ended. When this returns no
        engine has any.

        A worker that is not asleep within its limits is lost, and replaced when the others wake.
        """
        self._members.asleep = True
        deadline = time.monotonic() + self._limits.start_timeout_s
        while self._weights.put_to_sleep():
            if time.monotonic() > deadline:  # the other states have limits of their own
                self._members.remove_pending()
            self._poll_once(_CHECK_S)

    def wake(self) -> None:
        """Have the workers load the newest weights, which wakes their engines; returns at once."""
        if self._members.asleep:
            self._members.wake()
            self._weights.wake()

    # Weights.

    def load(self, weights: WeightSource) -> None:
        """Have every worker pull and verify `weights`; returns at once. Groups in flight finish
        before, or continue on the new weights (`rapo.in_flight`)."""
        self._weights.use(weights)

    def receivers(self) -> Receivers | None:
        """The workers that are to receive the next version together; None where it goes through the
        object store alone."""
        if self._limits.weight_transport != "broadcast":
            return None
        deadline = time.monotonic() + _SETTLE_S
        while self._weights.receiving() and time.monotonic() < deadline:
            self._poll_once(_CHECK_S)
        return self._weights.receivers()

    def load_folder(self, folder: Path, version: int) -> None:
        """Have every worker load a model folder as `version`. What is asked for from now on is done
        with these weights only."""
        self._weights.use(Folder(self._where(folder), version), exclusively=True)

    def take_lost_version(self) -> int | None:
        """The newest version where workers could not pull it; they wait for the next `load`. None
        where there is none, or where it was taken before."""
        return self._weights.take_lost_version()

    def loaded(self, timeout_s: float) -> None:
        """Wait until every worker that stays holds the newest weights. The training loop does
        without.

        Raises the error of a worker that could not pull them.
        """
        deadline = time.monotonic() + timeout_s
        while self._weights.behind():
            if self._weights.lost is not None and not self._weights.loading():
                raise to_user_error(self._weights.lost, role="a rollout worker", timeout_s=0.0)
            if time.monotonic() > deadline:
                raise RoleError(
                    f"not every rollout worker held the newest weights within {timeout_s:.0f} s", kind=FaultKind.LATE
                )
            self._poll_once(_CHECK_S)

    # Tasks.

    @property
    def busy_seconds(self) -> float:
        """How long the workers' engines have worked, added up, as far as their receipts tell."""
        return self._work.busy_seconds

    @property
    def waiting(self) -> int:
        """The number of tasks that no worker has yet."""
        return self._work.waiting

    def forget(self) -> None:
        """Drop everything that was asked for."""
        self._work.forget()

    def submit(self, task: Task) -> None:
        """Queue a group; returns at once."""
        self._work.submit(task)

    def poll(self, timeout_s: float, others: Sequence[ObjectRef] = ()) -> list[RolloutResult]:
        """The groups that have come since the last call. Waits for the first of them, or for one of
        the refs `others`, but no longer than `timeout_s`.

        Raises `RoleError` where workers fail one after the other or none can be placed, and the
        `RapoError` that a worker raised over a task.
        """
        for ref in others:
            self._calls.wake_at(ref)
        self._poll_once(0.0 if self._work.has_results else timeout_s)
        return self._work.take_results()

    def submit_predictions(self, records: Sequence[ImageRecord]) -> None:
        """Ask for predictions from the newest weights; `take_predictions` gives them."""
        self._work.submit_predictions(records)

    def take_predictions(self) -> list[Prediction] | None:
        """All predictions in the order of their records, None until the last has come."""
        return self._work.take_predictions()

    def predictions(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Greedy predictions from the newest weights, in the order of `records`."""
        self.submit_predictions(records)
        while (predictions := self.take_predictions()) is None:
            self._poll_once(_POLL_S)
        return predictions

    def close(self) -> None:
        self._work.forget()
        self._members.close()

    def _poll_once(self, timeout_s: float) -> None:
        """Handle the calls that end within `timeout_s`, and return once there was one."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._work.dispatch()
            left = deadline - time.monotonic()
            ended = self._calls.take(min(left, _CHECK_S))
            for call in ended:
                if call is not None:
                    worker, on_end = call.tag
                    if worker.state is not WorkerState.GONE:
                        on_end(call.value, call.error)
            # Last: what has ended is not late, however long nobody has polled.
            self._check_workers()
            if ended or left <= _CHECK_S:
                return

    def _check_workers(self) -> None:
        now = time.monotonic()
        if now - self._checked_at >= _CHECK_S:
            self._checked_at = now
            self._members.check()
            self._weights.check()
