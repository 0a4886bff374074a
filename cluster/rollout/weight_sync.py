"""WeightSync: which weights each worker holds, and which it loads next.

- One load at a time goes on at each worker. When it ends, the newest weights are loaded next: a
  slow worker holds up no other, and keeps at most one old version alive.
- A version that is broadcast is received by all workers of its group at once. One that fails to
  receive it, or was not in the group, pulls it from the object store.
- A version that a worker could not pull is withdrawn: no worker tries it again, and all wait for
  the next `use`.
- An engine that sleeps holds no weights. It loads the newest when it wakes, and none before.
- Versions of model folders say nothing of their order. So weights are known by an epoch here, which
  counts the calls of `use`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from cluster.remote.faults import cause_of, is_data_loss
from cluster.remote.waiting import to_user_error
from cluster.remote.weight_source import Broadcast, Folder, Receivers, WeightSource, WeightVersion
from cluster.rollout.listener import FleetListener, WorkerEvent
from cluster.rollout.membership import Membership, OnEnd, WorkerCalls, is_input_error
from cluster.rollout.receiver_group import ReceiverGroup
from cluster.rollout.worker_handle import WorkerHandle, WorkerState
from rapo.config import RolloutConfig
from rapo.errors import RapoError, WeightError

if TYPE_CHECKING:
    from ray import ObjectRef

_LOAD_TRIES = 3

#: States of a worker that can load weights.
_UP = (WorkerState.HEALTHY, WorkerState.SYNCING, WorkerState.READY, WorkerState.ASLEEP)


class WeightSync:
    """Has the workers of `members` load weights."""

    def __init__(self, limits: RolloutConfig, members: Membership, calls: WorkerCalls, listener: FleetListener) -> None:
        self._limits = limits
        self._members = members
        self._calls = calls
        self._listener = listener
        self._source: WeightSource | None = None
        self._withdrawn: WeightSource | None = None
        self._group = ReceiverGroup()
        self._receiving: dict[WorkerHandle, int] = {}  # the epoch of the group in which each receives
        self.epoch = 0
        self._oldest = 0  # the first epoch whose weights may be used
        self._failures = 0
        #: Why no worker can pull the newest weights; None where nothing is known against them.
        self.lost: Exception | None = None
        self._woken_at: float | None = None
        #: From each `wake` until a worker held weights, added up.
        self.waking_seconds = 0.0

    def use(self, source: WeightSource, *, exclusively: bool = False) -> None:
        """Have every worker load `source`; returns at once. `exclusively`: no worker samples or
        predicts with older weights from now on."""
        self._source = source
        self.lost = None
        self.epoch += 1
        if exclusively:
            self._oldest = self.epoch
            for worker in self._members.workers:
                _drop(worker)
        if isinstance(source, WeightVersion) and source.broadcast is not None:
            self._receive(source, source.broadcast)
        for worker in self._members.workers:
            self.load_newest(worker)

    def receivers(self) -> Receivers | None:
        """The workers that are to receive the next version together, all that can load at present;
        None where there are none."""
        free = [w.number for w in self._members.workers if w.state in _UP and w.loading is None]
        return self._group.form(free)

    def put_to_sleep(self) -> bool:
        """Have every worker sleep that can now; whether there are others, or any that do not sleep
        yet."""
        for worker in self._members.workers:
            if worker.state in _UP and worker.state is not WorkerState.ASLEEP and worker.loading is None:
                _drop(worker)
                self._begin(worker, worker.actor.sleep.remote(), partial(self._slept, worker))
        return any(worker.state is not WorkerState.ASLEEP for worker in self._members.workers)

    def wake(self) -> None:
        """Have every worker load the newest weights."""
        self._woken_at = time.monotonic()
        for worker in self._members.workers:
            self.load_newest(worker)

    def start_from(self, folder: Folder) -> None:
        """`folder` is what the workers that are about to be created start on."""
        self._source = folder

    def take_lost_version(self) -> int | None:
        """The version that workers could not pull and wait for anew; None where there is none, or
        where it was taken before."""
        error, self.lost = self.lost, None
        return self._source.version if error is not None and self._source is not None else None

    def behind(self) -> bool:
        """Whether a worker that stays has not loaded the newest weights yet."""
        return any(w.weight_epoch < self.epoch for w in self._members.workers if w.state is not WorkerState.DRAINING)

    def loading(self) -> bool:
        """Whether a worker is loading weights."""
        return any(worker.loading is not None for worker in self._members.workers)

    def receiving(self) -> bool:
        """Whether a worker is receiving a version together with others."""
        return bool(self._receiving)

    def check(self) -> None:
        """Where a receiver is gone, have the others of its group give up, and pull."""
        for epoch in {epoch for worker, epoch in self._receiving.items() if worker.state is WorkerState.GONE}:
            self._give_up(epoch)

    def usable(self, worker: WorkerHandle) -> bool:
        """Whether a worker holds weights that may be used."""
        return worker.weight_version is not None and worker.weight_epoch >= self._oldest

    def adopt(self, worker: WorkerHandle) -> None:
        """A worker has just started on the fleet's model folder."""
        model = self._members.model
        if model is not None and self._source == model:
            worker.weight_epoch, worker.weight_version = self.epoch, model.version
            self._members.join(worker)
        else:
            self.load_newest(worker)

    def load_newest(self, worker: WorkerHandle) -> None:
        """Have a worker load the newest weights, unless it holds or loads them, or cannot yet."""
        if worker.state not in _UP or worker.loading is not None or worker.weight_epoch >= self.epoch:
            return
        if self._members.asleep:
            return
        if self._source is None or self._source is self._withdrawn:
            return
        loaded = partial(self._loaded, worker, self._source)
        self._begin(worker, self._source.pull(worker.actor), loaded)

    def _begin(self, worker: WorkerHandle, call: ObjectRef[int], on_end: OnEnd, *, wait_s: float = 0.0) -> None:
        """A load has begun at a worker. It may wait for others for `wait_s`."""
        limit = self._limits.load_timeout_s + wait_s
        if worker.calls:  # they may have to finish first
            limit += self._limits.generate_timeout_s
        worker.loading = (self.epoch, time.monotonic() + limit)
        if worker.weight_version is None:
            worker.move(WorkerState.SYNCING)
        worker.times["load"] = time.time()
        self._calls.watch(call, (worker, on_end))

    def _slept(self, worker: WorkerHandle, _: object, error: Exception | None) -> None:
        worker.loading = None
        if error is not None:
            self._members.lose(worker, error)
            return
        worker.weight_epoch = -1
        worker.move(WorkerState.ASLEEP)

    def _receive(self, source: WeightVersion, broadcast: Broadcast) -> None:
        """Have the workers of the group receive a version together."""
        epoch, numbers = broadcast.receivers.epoch, broadcast.receivers.workers
        for worker in self._members.workers:
            if worker.number in numbers and worker.loading is None:
                self._receiving[worker] = epoch
                received = partial(self._received, worker, source, epoch)
                call = broadcast.receive(source.version, worker.actor, worker.number)
                self._begin(worker, call, received, wait_s=self._limits.broadcast_timeout_s)

    def _received(
        self, worker: WorkerHandle, source: WeightSource, epoch: int, value: object, error: Exception | None
    ) -> None:
        self._receiving.pop(worker, None)
        news = error is not None and self._give_up(epoch)
        if error is None or not isinstance(cause_of(error), WeightError):
            self._loaded(worker, source, value, error)
            return
        worker.loading = None
        _drop(worker)
        if news:
            self._members.report(worker, error, "this version comes through the object store")
        self.load_newest(worker)

    def _give_up(self, epoch: int) -> bool:
        """A broadcast has failed: have all that still wait in its group give up. Whether it is the
        first that is heard of it."""
        for worker in [worker for worker, own in self._receiving.items() if own == epoch]:
            del self._receiving[worker]
            if worker.state is not WorkerState.GONE:
                worker.actor.give_up.remote(epoch)
        return self._group.fail(epoch)

    def _loaded(self, worker: WorkerHandle, source: WeightSource, value: object, error: Exception | None) -> None:
        assert worker.loading is not None
        epoch, worker.loading = worker.loading[0], None
        if error is not None:
            self._load_failed(worker, source, error)
            return
        assert isinstance(value, int)
        worker.load_failures = self._failures = 0
        worker.weight_epoch = epoch
        if epoch >= self._oldest:
            worker.weight_version = value
            self._members.join(worker)
            if self._woken_at is not None:
                self.waking_seconds += time.monotonic() - self._woken_at
                self._woken_at = None
        self._listener.worker(WorkerEvent.LOADED, worker)
        self.load_newest(worker)

    def _load_failed(self, worker: WorkerHandle, source: WeightSource, error: Exception) -> None:
        """Lose the worker, or have it wait for the version anew.

        Raises the error where it is over a model folder, and where no worker can load what is
        published again and again.
        """
        if isinstance(source, Folder) and is_input_error(error):
            cause = cause_of(error)
            assert isinstance(cause, RapoError)
            raise cause from error
        if not isinstance(cause_of(error), WeightError) and not is_data_loss(error):
            self._members.lose(worker, error)
            return
        _drop(worker)
        if source is not self._source:  # newer weights have come meanwhile
            self.load_newest(worker)
            return
        worker.load_failures += 1
        self._failures += 1
        workers = self._members.workers
        if self._failures >= _LOAD_TRIES * len(workers):  # not a single success meanwhile
            raise to_user_error(error, role=worker.name, timeout_s=0.0)
        if worker.load_failures >= _LOAD_TRIES and any(w.weight_epoch >= self.epoch for w in workers):
            self._members.lose(worker, error)  # others could
            return
        self._members.report(worker, error, "it loads again")
        self._withdrawn, self.lost = source, error


def _drop(worker: WorkerHandle) -> None:
    """A worker holds no weights that may be used."""
    worker.weight_version = None
    if worker.state is WorkerState.READY:
        worker.move(WorkerState.SYNCING)
