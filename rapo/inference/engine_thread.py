"""The thread that owns an engine: requests stream into its continuous batch, weights are loaded
between two steps.

Requests and loads take effect in the order in which they were asked for, except that a load which
is already overtaken by a newer one is skipped. With `continue_over_update` a load happens at once
and requests under way go on with the new weights; otherwise they finish on theirs first, and what
was asked after the load waits for it.

A load that failed leaves the engine without weights: requests under way end with the error, and new
ones are refused until a load succeeds.

A request may be cancelled at any time; the engine then drops it between two steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from rapo.errors import RapoError, WeightError

#: A step costs nearly the same for one request as for many. An idle engine therefore waits this
#: long after a request for the next one of the same burst, and for a burst at most so long.
_LINGER_S, _GATHER_S = 0.004, 0.1


#: What is asked of the engine about an image, and what it answers: `SamplingSpec` and completions,
#: or `ReadoutRequest` and `ReadoutResult`.
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")
_AskedIn = TypeVar("_AskedIn", contravariant=True)
_AnsweredOut = TypeVar("_AnsweredOut", covariant=True)


class EngineLike(Protocol[_AskedIn, _AnsweredOut]):
    """What the loop needs of an engine (see `rapo.inference.engine.Engine` and
    `rapo.inference.readout_engine.ReadoutEngine`)."""

    version: int | None

    @property
    def busy(self) -> bool: ...
    def add(self, name: str, image: Any, sampling: _AskedIn, seed: int, /) -> None: ...
    def cancel(self, name: str) -> None: ...
    def step(self) -> Sequence[tuple[str, _AnsweredOut]]: ...
    def load(self, weights: Iterable[tuple[str, Any]], version: int) -> int: ...


@dataclass(slots=True)
class _Add(Generic[Asked, Answered]):
    image: Any
    asked: Asked
    seed: int
    future: Future[Answered] = field(default_factory=Future)


@dataclass(slots=True)
class _Load:
    weights: Callable[[], Iterable[tuple[str, Any]]]
    version: int
    future: Future[int] = field(default_factory=Future)


class EngineThread(Generic[Asked, Answered]):
    """Runs `make()`'s engine in a thread of its own. `add`, `cancel` and `load` may be called from
    any thread.

    An idle engine waits up to `linger_s` for more of the same burst before it starts; 0 starts at
    once.
    """

    def __init__(
        self,
        make: Callable[[], EngineLike[Asked, Answered]],
        *,
        continue_over_update: bool = False,
        linger_s: float = _LINGER_S,
    ) -> None:
        self._make = make
        self._continue = continue_over_update
        self._linger_s = linger_s
        self._wake = threading.Condition()
        self._commands: deque[_Add[Asked, Answered] | _Load] = deque()
        self._cancelled: deque[Future[Answered]] = deque()
        self._running: dict[str, Future[Answered]] = {}
        self._closed = False
        self._names = 0
        self._busy_s = 0.0
        self._turn_began: float | None = None
        self._died: Exception | None = None
        self.started: Future[EngineLike[Asked, Answered]] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """How long the engine has worked, all in all."""
        return self._busy_s

    @property
    def under_way(self) -> int:
        """Requests that wait for the engine or are in it."""
        return len(self._commands) + len(self._running)

    @property
    def step_seconds(self) -> float:
        """How long the engine has been at its present step; 0 between steps and while it idles."""
        began = self._turn_began
        return time.perf_counter() - began if began is not None else 0.0

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests: it is starting or running."""
        return self._died is None

    def add(self, image: Any, asked: Asked, seed: int) -> Future[Answered]:
        command: _Add[Asked, Answered] = _Add(image, asked, seed)
        return self._enqueue(command, command.future)

    def cancel(self, future: Future[Answered]) -> None:
        """Stop the work for a future of `add`, which then ends with `CancelledError`. What is done
        already stays done."""
        if future.cancel() or future.done():
            return
        with self._wake:
            self._cancelled.append(future)
            self._wake.notify()

    def load(self, weights: Callable[[], Iterable[tuple[str, Any]]], version: int) -> Future[int]:
        """The future holds the version that the engine then has: `version`, or a newer one that
        overtook it."""
        command = _Load(weights, version)
        return self._enqueue(command, command.future)

    def close(self) -> None:
        """End the thread after its present step; what is unfinished is cancelled."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=60.0)

    def _enqueue(self, command: _Add[Asked, Answered] | _Load, future: Future[Any]) -> Future[Any]:
        with self._wake:
            if self._died is not None:
                future.set_exception(self._died)
            else:
                self._commands.append(command)
                self._wake.notify()
        return future

    def _run(self) -> None:
        try:
            engine = self._make()
        except Exception as error:  # noqa: BLE001 - carried to whoever waits for the start
            self._end(error)
            self.started.set_exception(error)
            return
        self.started.set_result(engine)
        try:
            while self._turn(engine):
                pass
            self._end(RuntimeError("the engine was closed"))
        except Exception as error:  # noqa: BLE001 - a broken engine; carried to all who wait for it
            self._end(error)

    def _end(self, error: Exception) -> None:
        with self._wake:
            self._died = error
            waiting: list[Future[Any]] = [command.future for command in self._commands]
            waiting += self._running.values()
            self._commands.clear()
            self._running.clear()
        for future in waiting:
            if not future.cancelled():
                future.set_exception(error)

    def _turn(self, engine: EngineLike[Asked, Answered]) -> bool:
        """Carry out what can be carried out now, then one step; False once closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._commands or self._cancelled or engine.busy)
            if self._closed:
                return False
        began, idle = time.perf_counter(), not engine.busy
        self._turn_began = began
        self._drop_cancelled(engine)
        self._carry_out(engine)
        while self._linger_s and idle and engine.busy and time.perf_counter() - began < _GATHER_S:
            with self._wake:
                # What is still there is a load that waits for the engine to be idle.
                if self._commands or not self._wake.wait_for(lambda: self._commands, timeout=self._linger_s):
                    break
            self._carry_out(engine)
        if engine.busy:
            for name, answered in engine.step():
                self._running.pop(name).set_result(answered)
        self._turn_began = None
        self._busy_s += time.perf_counter() - began
        return True

    def _drop_cancelled(self, engine: EngineLike[Asked, Answered]) -> None:
        with self._wake:
            cancelled, self._cancelled = set(self._cancelled), deque()
        for name in [name for name, future in self._running.items() if future in cancelled]:
            engine.cancel(name)
            self._running.pop(name).set_exception(CancelledError())

    def _carry_out(self, engine: EngineLike[Asked, Answered]) -> None:
        while (command := self._next(engine)) is not None:
            if isinstance(command, _Load):
                self._carry_out_load(engine, command)
            else:
                self._carry_out_add(engine, command)

    def _next(self, engine: EngineLike[Asked, Answered]) -> _Add[Asked, Answered] | _Load | None:
        with self._wake:
            if not self._commands:
                return None
            if isinstance(self._commands[0], _Add):
                return self._commands.popleft()
            if engine.busy and not self._continue:
                return None
            loads = [command for command in self._commands if isinstance(command, _Load)]
            newest = loads[-1]
            self._commands = deque(command for command in self._commands if isinstance(command, _Add))
        for load in loads:
            if load is not newest:
                newest.future.add_done_callback(_passes_on_to(load.future))
        return newest

    def _carry_out_load(self, engine: EngineLike[Asked, Answered], command: _Load) -> None:
        wanted = command.future.set_running_or_notify_cancel()  # a load is done in any case
        try:
            engine.load(command.weights(), command.version)
        except Exception as error:
            if wanted:
                command.future.set_exception(error)
            if isinstance(error, RapoError):  # damaged weights; anything else is a broken engine
                if engine.version is None:
                    self._give_up(engine)
                return
            raise
        if wanted:
            command.future.set_result(command.version)

    def _give_up(self, engine: EngineLike[Asked, Answered]) -> None:
        """End what is under way: no further token of it would be of a version that anybody
        knows."""
        while self._running:
            name, future = self._running.popitem()
            future.set_exception(WeightError("this worker lost its weights in a load that failed; ask another one"))
            engine.cancel(name)

    def _carry_out_add(self, engine: EngineLike[Asked, Answered], command: _Add[Asked, Answered]) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        if engine.version is None:
            command.future.set_exception(WeightError("this worker holds no verified weights; load a version first"))
            return
        self._names += 1
        name = str(self._names)
        try:
            engine.add(name, command.image, command.asked, command.seed)
        except Exception as error:
            command.future.set_exception(error)
            if isinstance(error, ValueError):  # this request alone is at fault; anything else is a broken engine
                return
            raise
        self._running[name] = command.future


def _passes_on_to(other: Future[int]) -> Callable[[Future[int]], None]:
    def pass_on(done: Future[int]) -> None:
        if not other.set_running_or_notify_cancel():
            return
        error = CancelledError() if done.cancelled() else done.exception()
        if error is None:
            other.set_result(done.result())
        else:
            other.set_exception(error)

    return pass_on
