"""Membership: which workers there are: created, checked, replaced, sent away.

- A worker that does not start, load, sample or answer within its limit is replaced. So is one that
  dies, or whose node goes.
- A worker that leaves finishes its calls first. The oldest one is never sent away.
- While the engines sleep no worker is created: the learner has the GPUs.
- A worker that is lost is removed before any error is raised over it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ray.exceptions import RayTaskError

from actors.messages import ProcessInfo
from cluster.remote.actors import Launch
from cluster.remote.completions import CompletionQueue
from cluster.remote.drain_notices import DrainNotices
from cluster.remote.faults import Fault, cause_of, kind_of, one_line
from cluster.remote.needs import Need, workers_need
from cluster.remote.placement import SharedRoom
from cluster.remote.ray_autoscaler import request_capacity
from cluster.remote.ray_session import log_folder
from cluster.remote.waiting import to_user_error
from cluster.remote.weight_source import Folder
from cluster.rollout.listener import FleetListener, WorkerEvent
from cluster.rollout.tasks import InFlightCall
from cluster.rollout.worker_handle import COMING, WorkerHandle, WorkerState, create
from rapo.config import Config
from rapo.errors import RapoError, RoleError

#: What to do when a worker's call has ended, with its value or its error.
OnEnd = Callable[[object, Exception | None], None]
#: The calls of all workers, each with its worker and what to do at its end.
WorkerCalls = CompletionQueue[tuple[WorkerHandle, OnEnd]]

#: Workers that may fail one after the other before their first group until the cause is taken to be
#: a common one.
_FAILED_STARTS = 3
#: Engines that may raise an error at their start before the next would raise it, too.
_REFUSALS = 2
_MOST_BACKOFF_S = 30.0
#: Pings a second of all workers together. Each costs the driver as much as the call for a group.
_PINGS_PER_S = 16
#: What vLLM says where another process holds the GPU's memory.
_GPU_IN_USE = "Free memory on device"


class Membership:
    """The workers of a fleet. `on_healthy` is called with a worker whose engine has started,
    `on_lost` with the calls that a lost worker had and the error."""

    def __init__(
        self,
        config: Config,
        launch: Launch,
        listener: FleetListener,
        calls: WorkerCalls,
        on_healthy: Callable[[WorkerHandle], None],
        on_lost: Callable[[Iterable[InFlightCall], RapoError], None],
    ) -> None:
        self._config = config
        self._limits = config.rollout
        self._launch = launch
        self._listener = listener
        self._calls = calls
        self._on_healthy = on_healthy
        self._on_lost = on_lost
        self.workers: list[WorkerHandle] = []
        self.wanted = config.rollout.workers
        #: What the workers share with learner ranks; None where they do not.
        self.room = SharedRoom(config) if config.colocated else None
        #: Whether the engines sleep, or are about to.
        self.asleep = False
        #: The model folder that new workers start on.
        self.model: Folder | None = None
        self._notices = DrainNotices()
        self._told: frozenset[str] = frozenset()
        self._numbers = 0
        self._refused = self._failed_starts = 0
        self._not_before = 0.0
        self._placed_at = time.monotonic()
        #: What runs at the same time, and needs room as well.
        self._beside: Sequence[Need] = ()

    @property
    def ready_count(self) -> int:
        """The number of workers that can be given tasks, now or in their turn."""
        return sum(worker.state in (WorkerState.READY, WorkerState.ASLEEP) for worker in self.workers)

    def newly_draining(self) -> frozenset[str]:
        """The host names of nodes that are about to go, each told once."""
        nodes = self._notices.nodes()
        new, self._told = nodes.keys() - self._told, frozenset(nodes)
        return frozenset(nodes[node] for node in new)

    def start(self, model: Folder) -> None:
        """Begin to start workers on a model folder; returns at once."""
        self.model = model
        self._placed_at = time.monotonic()
        self._request_room()
        self.balance()

    def resize(self, workers: int) -> int:
        """Have `workers` from now on, within 1 and `rollout.max_workers`; the number that it is."""
        wanted = max(1, min(self._config.most_workers, workers))
        if wanted != self.wanted:
            self.wanted = wanted
            self._request_room()
            self.balance()
        return wanted

    def wake(self) -> None:
        """Workers that are missing are created again, from the next `check` on."""
        self.asleep = False
        self._placed_at = time.monotonic()

    def remove_pending(self) -> None:
        """Remove the workers whose process has not answered yet; `wake` creates others."""
        for worker in [w for w in self.workers if w.state is WorkerState.PENDING]:
            self._remove(worker, WorkerEvent.LEFT)

    @contextmanager
    def beside(self, needs: Sequence[Need]) -> Iterator[None]:
        """For the length of the block, have the autoscaler keep room for these processes as
        well."""
        self._beside = needs
        try:
            yield
        finally:
            self._beside = ()
            if self.model is not None:
                self._request_room()

    def _request_room(self) -> None:
        request_capacity(self._config, [workers_need(self._config, self.wanted), *self._beside])

    def check(self) -> None:
        """Replace workers that are late, ping the others now and then, create and send away.

        Raises `RoleError` where the cluster has had no room for any worker for
        `rollout.place_timeout_s`.
        """
        now = time.monotonic()
        period = max(self._limits.heartbeat_s, len(self.workers) / _PINGS_PER_S)
        for worker in self.workers:
            # A worker that shares stays as long as its rank, whose bundle goes nowhere else before.
            going = self.room is None and worker.node_id in self._notices.nodes()
            worker.leaving = worker.leaving or going
        for worker in list(self.workers):
            late = worker.overdue(now, self._limits)
            if late is not None:
                words, kind = late
                self.lose(worker, RoleError(f"{worker.name} {words}. Logs: {log_folder()}", kind=kind))
            elif worker.ping_due(now, period):
                worker.ping_sent_at = now
                self._calls.watch(worker.actor.ping.remote(), (worker, partial(self._answered, worker)))
        self.balance()
        if self.asleep or any(worker.state is not WorkerState.PENDING for worker in self.workers):
            self._placed_at = now
        elif now - self._placed_at > self._limits.place_timeout_s:
            raise RoleError(
                f"the cluster had no room for a rollout worker for {self._limits.place_timeout_s:.0f} s "
                "(rollout.place_timeout_s). Add nodes, or lower rollout.cpus and rollout.gpus; `ray status` shows what is taken."
            )

    def balance(self) -> None:
        """Create the workers that are missing, send away those that are too many, end those that
        have drained."""
        for worker in [w for w in self.workers if w.leaving]:
            if worker.state is WorkerState.READY:
                worker.move(WorkerState.DRAINING)
            elif worker.state is not WorkerState.DRAINING:
                self._remove(worker, WorkerEvent.LEFT)
        for worker in [w for w in self.workers if _drained(w)]:
            self._remove(worker, WorkerEvent.LEFT)
        staying = [w for w in self.workers if w.state is not WorkerState.DRAINING]
        draining = [w for w in self.workers if w.state is WorkerState.DRAINING and not w.leaving]
        for worker in draining[: max(0, self.wanted - len(staying))]:
            worker.move(WorkerState.READY)
            staying.append(worker)
        # Those that cannot work yet go first, then the youngest.
        leaving = sorted(staying[1:], key=lambda w: (w.state not in COMING, -w.number))
        for worker in leaving[: max(0, len(staying) - self.wanted)]:
            if worker.state is WorkerState.READY:
                worker.move(WorkerState.DRAINING)
            else:
                self._remove(worker, WorkerEvent.LEFT)
        missing = self.wanted - len(staying)
        if missing > 0 and self.model is not None and not self.asleep and time.monotonic() >= self._not_before:
            for bundle in self._bundles(missing):
                self._create(self.model, bundle)

    def _bundles(self, missing: int) -> Sequence[int | None]:
        """Where as many new workers go, as far as there is room."""
        if self.room is None:
            return [None] * missing
        taken = {worker.bundle for worker in self.workers}
        free = [bundle for bundle in range(self.room.size) if bundle not in taken]
        return [bundle for bundle in free if self.room.takes_worker(bundle)][:missing]

    def join(self, worker: WorkerHandle) -> None:
        """A worker holds weights that the fleet uses: it can be given tasks."""
        if worker.state not in (WorkerState.READY, WorkerState.DRAINING):
            worker.move(WorkerState.READY)
            self._listener.worker(WorkerEvent.READY, worker)

    def seen_working(self, worker: WorkerHandle) -> None:
        """A worker has finished a call, which counts as an answer to a ping as well."""
        worker.worked = True
        worker.last_seen = time.monotonic()
        self._failed_starts = 0

    def lose(self, worker: WorkerHandle, error: Exception) -> None:
        """Remove a worker that is of no use any more; `balance` replaces it.

        Raises a `RapoError` where workers fail one after the other before any has done work.
        """
        user_error = error if isinstance(error, RoleError) else to_user_error(error, role=worker.name, timeout_s=0.0)
        self.report(worker, error, "replaced")
        calls = list(worker.calls)
        self._remove(worker, WorkerEvent.LOST)
        self._on_lost(calls, user_error)
        if not worker.worked:
            self._failed_starts += 1
            self._not_before = time.monotonic() + min(_MOST_BACKOFF_S, 2.0 ** (self._failed_starts - 1) - 1.0)
            if self._failed_starts >= _FAILED_STARTS + self.wanted:
                raise user_error from error

    def report(self, worker: WorkerHandle, error: Exception, action: str) -> None:
        """Report a fault of a worker that is survived."""
        self._listener.fault(Fault(worker.role, worker.node, kind_of(error), one_line(error), action))

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers.clear()
        if self.room is not None:
            self.room.close()
        if self.model is not None:
            request_capacity(self._config, ())

    def _create(self, model: Folder, bundle: int | None) -> None:
        worker = create(self._numbers, self._config, self._launch, self.room, bundle)
        self._numbers += 1
        self.workers.append(worker)
        self._calls.watch(worker.actor.hello.remote(), (worker, partial(self._arrived, worker)))
        started = worker.actor.start.remote(str(model.path), model.version)
        self._calls.watch(started, (worker, partial(self._started, worker)))

    def _arrived(self, worker: WorkerHandle, value: object, error: Exception | None) -> None:
        """The worker's process has answered."""
        if error is not None:
            self.lose(worker, error)
            return
        assert isinstance(value, ProcessInfo)
        worker.node, worker.pid, worker.node_id = value.node, value.pid, value.node_id
        worker.last_seen = time.monotonic()
        if worker.state is WorkerState.PENDING:  # calls of an actor may end in any order: its engine may run already
            worker.deadline = time.monotonic() + self._limits.start_timeout_s
            worker.move(WorkerState.CREATING)

    def _started(self, worker: WorkerHandle, _: object, error: Exception | None) -> None:
        """The worker's engine runs, or does not."""
        if error is None:
            worker.deadline = float("inf")
            worker.move(WorkerState.HEALTHY)
            self._on_healthy(worker)
            return
        # The GPU's last user is still going away, which the next try finds done.
        waits = _GPU_IN_USE in str(cause_of(error))
        self._refused += isinstance(error, RayTaskError) and not waits
        if is_input_error(error) or self._refused >= _REFUSALS:
            self._remove(worker, WorkerEvent.LOST)
            raise to_user_error(error, role=worker.name, timeout_s=0.0) from error
        self.lose(worker, error)

    def _answered(self, worker: WorkerHandle, _: object, error: Exception | None) -> None:
        if error is not None:
            self.lose(worker, error)
        else:
            worker.ping_sent_at, worker.last_seen = None, time.monotonic()

    def _remove(self, worker: WorkerHandle, event: WorkerEvent) -> None:
        worker.calls.clear()
        worker.move(WorkerState.GONE)
        self.workers.remove(worker)
        self._listener.worker(event, worker)
        worker.end()


def is_input_error(error: Exception) -> bool:
    """Whether a call failed over its input, over which another worker would fail as well."""
    cause = cause_of(error)
    return isinstance(cause, RapoError) and not isinstance(cause, RoleError)


def _drained(worker: WorkerHandle) -> bool:
    return worker.state is WorkerState.DRAINING and not worker.calls and worker.loading is None
