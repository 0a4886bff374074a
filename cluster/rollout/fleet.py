"""Rollout workers that join, leave and die while a run goes on.

Every worker goes through the states of `cluster.rollout.worker_handle.WorkerState`. What holds:
- A worker gets work only with weights that it has verified, and only groups that its version is new
  enough for.
- Work whose worker is lost is given to another. A group may be drawn more than once, and is handed
  out exactly once.
- A worker that leaves finishes what it has first. The oldest one is never sent away.
- One load at a time goes on at each worker, and when it ends the newest weights are loaded next: a
  slow worker holds up nobody, and keeps at most one old version alive.
- A version that a worker could not pull is waited for where it is to come anew.
- A worker that does not start, load, draw or answer within its limit is replaced. So is one that
  dies, or whose node goes.

Weights are known by a serial number here: the versions of model folders say nothing of their order.
One thread uses a fleet.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError

from actors.rollout import RolloutWorker
from cluster.remote.completions import CompletedCall, CompletionQueue
from cluster.remote.faults import Fault, Report, cause_of, is_data_loss, kind_of, one_line
from cluster.remote.ray_session import log_folder
from cluster.remote.waiting import to_user_error
from cluster.remote.weights import Folder, WeightSource, WeightVersion
from cluster.rollout.ray_autoscaler import request_capacity
from cluster.rollout.scheduler import assign
from cluster.rollout.tasks import EvalShard, InFlightCall, QueuedTask, RolloutResult, Task, split
from cluster.rollout.worker_handle import COMING, WorkerHandle, WorkerState, create
from rapo.config import Config
from rapo.errors import RapoError, RoleError, WeightError
from rapo.records import ImageRecord, Prediction

#: Work that was lost with so many workers one after the other is taken to be what they die of.
_POISON = 5
#: Workers that may fail one after the other on the way to their first group before the cause is
#: taken to be a common one.
_FAILED_STARTS = 3
#: Engines that may raise an error at their start before the next would raise it, too.
_REFUSALS = 2
_LOAD_TRIES = 3
_MOST_BACKOFF_S = 30.0
_POLL_S, _TEND_S = 2.0, 0.5

#: A worker that joined or left, for the run's records.
Journal = Callable[[str, WorkerHandle], None]


class Fleet:
    """Rollout workers as Ray actors of the class `worker`. `report` is told of faults, `journal` of
    who joined and left, `lost` of a weight version that can't be pulled, and says whether workers
    are to wait for the next `load` rather than try that one again. `close` ends all."""

    def __init__(
        self,
        config: Config,
        worker: Any = RolloutWorker,
        report: Report = lambda fault: None,
    ) -> None:
        self._config = config
        self._limits = config.rollout
        self._worker = worker
        self.wanted = config.rollout.workers
        # One group more than fills the engine, so that it does not wait for the next.
        self._most = (
            self._limits.max_groups or math.ceil(self._limits.engine.max_num_seqs / config.rapo.completions) + 1
        )
        self._events = CompletionQueue()
        self._members: list[WorkerHandle] = []
        self._numbers = 0
        self._start: tuple[str, int] | None = None
        self._source: WeightSource | None = None
        self._withdrawn: WeightSource | None = None
        self._serial = self._base = 0
        self._queue: deque[QueuedTask] = deque()
        self._drawn: list[RolloutResult] = []
        self._predicted: dict[int, list[Prediction]] = {}
        self._busy_s = 0.0
        self._refused = self._failed_starts = self._load_failures = 0
        self._not_before = 0.0
        self._tended, self._placed = 0.0, time.monotonic()
        self.report = report
        self.journal: Journal = lambda event, member: None
        self.lost: Callable[[int], bool] = lambda version: False

    def disown(self) -> None:
        """Nobody is told of anything any more, and of what was asked for nothing is wanted."""
        self.report = lambda fault: None
        self.journal = lambda event, member: None
        self.lost = lambda version: False
        self.forget()

    # Who is there.

    def __len__(self) -> int:
        """How many workers can be given work."""
        return sum(member.state is WorkerState.READY for member in self._members)

    @property
    def members(self) -> Sequence[WorkerHandle]:
        return self._members

    @property
    def busy_seconds(self) -> float:
        """How long the workers' engines have worked, added up, as far as their latest receipts
        tell."""
        return self._busy_s

    @property
    def waiting(self) -> int:
        """How much work no worker has yet."""
        return len(self._queue)

    def start(self, model_dir: Path, version: int) -> None:
        """Begin to start all workers on a model folder, as `version`; returns at once (see
        `ready`)."""
        self._start = (str(model_dir), version)
        self.forget()
        if self._members:
            self.load_folder(model_dir, version)
        self._source = Folder(Path(model_dir), version)
        self._placed = time.monotonic()
        request_capacity(self._config, self.wanted)
        self._balance()

    def ready(self) -> list[dict[str, Any]]:
        """Wait until every worker is ready, and say what and where they are. At the limit
        `rollout.start_timeout_s` those that are ready are enough, if there are any.

        Raises `RoleError`, or the error of ours that a worker raised, where none gets ready.
        """
        deadline = time.monotonic() + self._limits.start_timeout_s
        while len(self) < self.wanted:
            if time.monotonic() > deadline:
                if len(self):
                    break
                raise RoleError(
                    f"no rollout worker was ready within {self._limits.start_timeout_s:.0f} s (rollout.start_timeout_s): "
                    f"{', '.join(f'{m.name} is {m.state.value}' for m in self._members)}. Logs: {log_folder()}"
                )
            self._poll_once(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        return self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each worker, for people."""
        return [member.row() for member in self._members]

    def resize(self, workers: int) -> int:
        """Have `workers` of them from now on, as far as `rollout.max_workers` allows; how many are
        then wanted. Joining and leaving go on beside the work."""
        wanted = max(1, min(self._limits.most, workers))
        if wanted != self.wanted:
            self.wanted = wanted
            request_capacity(self._config, wanted)
            self._balance()
        return wanted

    # Weights.

    def load(self, weights: WeightVersion) -> None:
        """Have every worker pull and verify `weights`; returns at once. Groups under way finish
        before, or continue on the new weights (`rapo.in_flight`)."""
        self._source = weights
        self._serial += 1
        for member in self._members:
            self._load_newest(member)

    def load_folder(self, folder: Path, version: int) -> None:
        """Have every worker load a model folder as `version`; what is asked for from now on is done
        with it only."""
        self._source = Folder(Path(folder), version)
        self._serial += 1
        self._base = self._serial
        for member in self._members:
            member.held = None
            if member.state is WorkerState.READY:
                member.move(WorkerState.SYNCING)
            self._load_newest(member)

    def loaded(self, timeout_s: float) -> None:
        """Wait until every worker that can be given work holds the weights that were asked for
        last. The loop does without."""
        deadline = time.monotonic() + timeout_s
        while any(member.serial < self._serial for member in self._members if member.state is not WorkerState.DRAINING):
            if time.monotonic() > deadline:
                raise RoleError(
                    f"not every rollout worker held the newest weights within {timeout_s:.0f} s", kind="late"
                )
            self._poll_once(_TEND_S)

    # Work.

    def forget(self) -> None:
        """Of what was asked for so far nothing is wanted any more."""
        self._queue.clear()
        self._drawn = []
        for member in self._members:
            for call in member.calls:
                call.item.wanted = False

    def submit(self, task: Task) -> None:
        """Queue a group; returns at once."""
        self._queue.append(QueuedTask(task))

    def poll(self, timeout_s: float, others: Sequence[Any] = ()) -> list[RolloutResult]:
        """The groups drawn since the last call. Waits for the first of them, or for one of the refs
        `others`, but no longer than `timeout_s`.

        Raises `RoleError` where workers fail one after the other or none can be placed, and the
        error of ours that a worker raised over the work itself.
        """
        for ref in others:
            self._events.wake_at(ref)
        self._poll_once(0.0 if self._drawn else timeout_s)
        drawn, self._drawn = self._drawn, []
        return drawn

    def predictions(
        self, records: Sequence[ImageRecord], meanwhile: Callable[[], None] = lambda: None
    ) -> list[Prediction]:
        """Greedy predictions for records, in order, from the weights that were asked for last.
        `meanwhile` is called again and again until they are there."""
        pieces = split(records, self._sharing, self._serial)
        self._predicted = {}
        self._queue.extendleft(QueuedTask(piece) for piece in reversed(pieces))
        while len(self._predicted) < len(pieces):
            meanwhile()
            self._poll_once(_POLL_S)
        return [prediction for place in range(len(pieces)) for prediction in self._predicted[place]]

    def close(self) -> None:
        for member in self._members:
            member.end()
        self._members = []
        self._queue.clear()
        if self._start is not None:
            request_capacity(self._config, None)

    # One turn: what ended, then what is to be done.

    def _poll_once(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            self._check_workers()
            left = deadline - time.monotonic()
            ended = self._events.take(min(left, _TEND_S))
            for one in ended:
                if one is not None:
                    self._handle(one)
            if ended or left <= _TEND_S:
                return

    def _check_workers(self) -> None:
        self._dispatch()
        now = time.monotonic()
        if now - self._tended < _TEND_S:
            return
        self._tended = now
        for member in list(self._members):
            self._check(member, now)
        self._balance()
        if any(member.state is not WorkerState.PENDING for member in self._members):
            self._placed = now
        elif now - self._placed > self._limits.place_timeout_s:
            raise RoleError(
                f"the cluster had no room for a rollout worker for {self._limits.place_timeout_s:.0f} s "
                "(rollout.place_timeout_s). Add nodes, or lower rollout.cpus and rollout.gpus; `ray status` shows what is taken."
            )

    def _dispatch(self) -> None:
        if not self._queue:
            return
        # Nobody gets more than a fair share, or after an update the first to have loaded would take
        # everything. As work gets done the shares of what is left move on to whoever works, so that
        # a worker which stays away holds up nothing.
        outstanding = len(self._queue) + sum(len(m.calls) for m in self._members)
        most = min(self._most, math.ceil(outstanding / max(1, self._sharing)))
        free = (m for m in self._members if m.state is WorkerState.READY and len(m.calls) < most)
        assign(self._queue, free, most, self._eligible, self._send)

    @property
    def _sharing(self) -> int:
        """How many workers can work now or as soon as they have loaded."""
        return sum(
            member.state in (WorkerState.HEALTHY, WorkerState.SYNCING, WorkerState.READY) for member in self._members
        )

    def _eligible(self, member: WorkerHandle, work: Task | EvalShard) -> bool:
        if member.held is None or member.serial < self._base:
            return False
        if isinstance(work, Task):
            return member.held >= work.needs
        return member.serial >= work.serial and not any(isinstance(c.item.work, EvalShard) for c in member.calls)

    def _send(self, member: WorkerHandle, item: QueuedTask) -> None:
        work = item.work
        if isinstance(work, Task):
            receipt, group = member.actor.generate.remote(work.record, work.image, work.step)
        else:
            receipt, group = member.actor.predict.remote(work.records), None
        call = InFlightCall(item, group)
        member.calls[call] = time.monotonic() + self._limits.generate_timeout_s
        self._events.watch(receipt, (self._worked, member, call))
        if "routed" not in member.times:
            member.times["routed"] = time.time()
            self.journal("routed", member)

    def _handle(self, ended: CompletedCall) -> None:
        then, member, detail = ended.about
        if member.state is not WorkerState.GONE:
            then(member, detail, ended.value, ended.error)

    # What a call's end means: `(member, detail, value, error)`.

    def _arrived(self, member: WorkerHandle, _: None, facts: Any, error: Exception | None) -> None:
        if error is not None:
            self._lose(member, error)
            return
        member.node, member.pid = facts["node"], facts["pid"]
        member.answered = time.monotonic()
        if member.state is WorkerState.PENDING:  # calls of an actor may end in any order: its engine may be up already
            member.deadline = time.monotonic() + self._limits.start_timeout_s
            member.move(WorkerState.CREATING)

    def _started(self, member: WorkerHandle, serial: int, _: Any, error: Exception | None) -> None:
        if error is not None:
            self._raise_ours(member, error)
            self._refused += isinstance(error, RayTaskError)
            if self._refused >= _REFUSALS:
                raise to_user_error(error, role=member.name, timeout_s=0.0)
            self._lose(member, error)
            return
        assert self._start is not None
        member.deadline = math.inf
        member.serial = serial
        member.move(WorkerState.HEALTHY)
        if serial == self._serial:
            member.held = self._start[1]
            self._join(member)
        else:
            self._load_newest(member)

    def _loaded(self, member: WorkerHandle, source: WeightSource, held: int, error: Exception | None) -> None:
        assert member.loading is not None
        serial, member.loading = member.loading[0], None
        if error is not None:
            self._load_failed(member, source, error)
            return
        member.load_failures = self._load_failures = 0
        member.serial = serial
        if serial >= self._base:
            member.held = held
            self._join(member)
        self.journal("loaded", member)
        self._load_newest(member)

    def _load_failed(self, member: WorkerHandle, source: WeightSource, error: Exception) -> None:
        if isinstance(source, Folder):
            self._raise_ours(member, error)
        if not isinstance(cause_of(error), WeightError) and not is_data_loss(error):
            self._lose(member, error)
            return
        member.held = None
        if member.state is WorkerState.READY:
            member.move(WorkerState.SYNCING)
        if source is not self._source:  # nobody wants it any more
            self._load_newest(member)
            return
        member.load_failures += 1
        self._load_failures += 1
        if self._load_failures >= _LOAD_TRIES * len(self._members):  # not a single success meanwhile
            raise to_user_error(error, role=member.name, timeout_s=0.0)
        if member.load_failures >= _LOAD_TRIES and any(m.serial >= self._serial for m in self._members):
            self._lose(member, error)  # others could
            return
        self._fault(member, error, "it loads again")
        if self.lost(source.version):
            self._withdrawn = source
        self._load_newest(member)

    def _worked(self, member: WorkerHandle, call: InFlightCall, value: Any, error: Exception | None) -> None:
        if error is not None:
            if isinstance(cause_of(error), WeightError):  # a load failed meanwhile; another worker may do it
                member.calls.pop(call)
                self._queue.appendleft(call.item)
                return
            self._raise_ours(member, error)
            self._lose(member, error)
            return
        member.calls.pop(call)
        member.worked = True
        member.answered = time.monotonic()  # who works need not be asked whether it is there
        self._failed_starts = 0
        work = call.item.work
        if not call.item.wanted:
            return
        if isinstance(work, EvalShard):
            self._predicted[work.place] = value
        else:
            self._busy_s += max(0.0, value["busy_seconds"] - member.busy_s)
            member.busy_s = max(member.busy_s, value["busy_seconds"])
            member.groups += 1
            member.tokens += value["tokens"]
            self._drawn.append(RolloutResult(work, call.group, value))

    def _answered(self, member: WorkerHandle, _: None, __: Any, error: Exception | None) -> None:
        if error is not None:
            self._lose(member, error)
        else:
            member.asked, member.answered = None, time.monotonic()

    # Joining, leaving, being lost.

    def _balance(self) -> None:
        """Create what is missing, send away what is too much, end what has drained."""
        for member in [
            m for m in self._members if m.state is WorkerState.DRAINING and not m.calls and m.loading is None
        ]:
            self._remove(member, "left")
        staying = [m for m in self._members if m.state is not WorkerState.DRAINING]
        for member in [m for m in self._members if m.state is WorkerState.DRAINING][
            : max(0, self.wanted - len(staying))
        ]:
            member.move(WorkerState.READY)
            staying.append(member)
        # Those that can't work yet go first, then the youngest.
        leaving = sorted(staying[1:], key=lambda m: (m.state not in COMING, -m.number))
        for member in leaving[: max(0, len(staying) - self.wanted)]:
            if member.state is WorkerState.READY:
                member.move(WorkerState.DRAINING)
            else:
                self._remove(member, "left")
        missing = self.wanted - len(staying)
        if missing > 0 and self._start is not None and time.monotonic() >= self._not_before:
            for _ in range(missing):
                self._create()

    def _create(self) -> None:
        assert self._start is not None
        member = create(self._numbers, self._config, self._worker)
        self._numbers += 1
        self._members.append(member)
        self._events.watch(member.actor.hello.remote(), (self._arrived, member, None))
        # The serial number of what it starts on, where that is what the fleet holds now.
        serial = self._serial if self._source == Folder(Path(self._start[0]), self._start[1]) else -1
        self._events.watch(member.actor.start.remote(*self._start), (self._started, member, serial))

    def _join(self, member: WorkerHandle) -> None:
        if member.state is not WorkerState.READY and member.state is not WorkerState.DRAINING:
            member.move(WorkerState.READY)
            self.journal("ready", member)

    def _load_newest(self, member: WorkerHandle) -> None:
        """Have a worker load the newest weights, unless it has them, is at it, or can't yet."""
        up = member.state in (WorkerState.HEALTHY, WorkerState.SYNCING, WorkerState.READY)
        if not up or member.loading is not None or member.serial >= self._serial:
            return
        if self._source is None or self._source is self._withdrawn:
            return
        limit = self._limits.load_timeout_s
        if member.calls:  # they may have to finish first
            limit += self._limits.generate_timeout_s
        member.loading = (self._serial, time.monotonic() + limit)
        if member.held is None:
            member.move(WorkerState.SYNCING)
        member.times["load"] = time.time()
        self._events.watch(self._source.pull(member.actor), (self._loaded, member, self._source))

    def _check(self, member: WorkerHandle, now: float) -> None:
        """Lose a worker that is late with anything; ask it now and then whether it is there."""
        overdue = member.overdue(now, self._limits)
        if overdue is not None:
            cause, kind = overdue
            self._lose(member, RoleError(f"{member.name} {cause}. Logs: {log_folder()}", kind=kind))
        elif member.to_be_asked(now, self._limits.heartbeat_s):
            member.asked = now
            self._events.watch(member.actor.ping.remote(), (self._answered, member, None))

    def _lose(self, member: WorkerHandle, error: Exception) -> None:
        """A worker is of no use any more: give its work to others and replace it."""
        told = error if isinstance(error, RoleError) else to_user_error(error, role=member.name, timeout_s=0.0)
        self._fault(member, error, "replaced")
        for call in reversed(member.calls):
            item = call.item
            if not item.wanted:
                continue
            item.lost += 1
            if item.lost >= _POISON:
                raise RoleError(
                    f"{item.work.what} was under way on {item.lost} rollout workers that were lost one after the other; the "
                    f"last: {told}"
                ) from error
            self._queue.appendleft(item)
        if not member.worked:
            self._failed_starts += 1
            self._not_before = time.monotonic() + min(_MOST_BACKOFF_S, 2.0 ** (self._failed_starts - 1) - 1.0)
            if self._failed_starts >= _FAILED_STARTS + self.wanted:
                raise told from error
        self._remove(member, "lost")

    def _remove(self, member: WorkerHandle, event: str) -> None:
        member.calls.clear()
        member.move(WorkerState.GONE)
        self._members.remove(member)
        self.journal(event, member)
        member.end()

    def _fault(self, member: WorkerHandle, error: Exception, action: str) -> None:
        self.report(Fault(f"rollout-{member.number}", member.node, kind_of(error), one_line(error), action))

    def _raise_ours(self, member: WorkerHandle, error: Exception) -> None:
        """An error of ours is over the input, which another worker would stumble over as well."""
        cause = cause_of(error)
        if isinstance(cause, RapoError) and not isinstance(cause, RoleError):
            raise cause from error
