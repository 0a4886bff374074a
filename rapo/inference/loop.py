"""The thread that owns an engine: requests stream into its continuous batch, weights are loaded between two steps.

Requests and loads take effect in the order in which they were asked for, except that a load which is already overtaken by a
newer one is skipped. With `continue_over_update` a load happens at once and requests under way go on with the new weights;
otherwise they finish on theirs first, and what was asked after the load waits for it.

A load that failed leaves the engine without weights: every request is then refused until a load succeeds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from rapo.errors import RapoError, WeightError
from rapo.inference.engine import Completion, Sampling

#: A step costs nearly the same for one request as for many. An idle engine therefore waits this long after a request for the next
#: one of the same burst, and for a burst at most so long.
_LINGER_S, _GATHER_S = 0.004, 0.1


class EngineLike(Protocol):
    """What the loop needs of an engine (see `rapo.inference.engine.Engine`)."""

    version: int | None

    @property
    def busy(self) -> bool: ...
    def add(self, name: str, image: Image.Image, sampling: Sampling, seed: int) -> None: ...
    def step(self) -> list[tuple[str, list[Completion]]]: ...
    def load(self, weights: Iterable[tuple[str, Any]], version: int) -> int: ...


@dataclass(slots=True)
class _Add:
    image: Image.Image
    sampling: Sampling
    seed: int
    future: Future[list[Completion]] = field(default_factory=Future)


@dataclass(slots=True)
class _Load:
    weights: Callable[[], Iterable[tuple[str, Any]]]
    version: int
    future: Future[int] = field(default_factory=Future)


class EngineLoop:
    """Runs `make()`'s engine in a thread of its own. `add` and `load` return futures and may be called from any thread."""

    def __init__(self, make: Callable[[], EngineLike], *, continue_over_update: bool = False) -> None:
        self._make = make
        self._continue = continue_over_update
        self._wake = threading.Condition()
        self._commands: deque[_Add | _Load] = deque()
        self._running: dict[str, Future[list[Completion]]] = {}
        self._closed = False
        self._names = 0
        self._busy_s = 0.0
        self._died: Exception | None = None
        self.started: Future[EngineLike] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """How long the engine has worked, all in all."""
        return self._busy_s

    def add(self, image: Image.Image, sampling: Sampling, seed: int) -> Future[list[Completion]]:
        command = _Add(image, sampling, seed)
        return self._enqueue(command, command.future)

    def load(self, weights: Callable[[], Iterable[tuple[str, Any]]], version: int) -> Future[int]:
        """The future holds the version that the engine then has: `version`, or a newer one that overtook it."""
        command = _Load(weights, version)
        return self._enqueue(command, command.future)

    def close(self) -> None:
        """End the thread after its present step; what is unfinished is cancelled."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=60.0)

    def _enqueue(self, command: _Add | _Load, future: Future[Any]) -> Future[Any]:
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

    def _turn(self, engine: EngineLike) -> bool:
        """Carry out what can be carried out now, then one step; False once closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._commands or engine.busy)
            if self._closed:
                return False
        began, idle = time.perf_counter(), not engine.busy
        self._carry_out(engine)
        while idle and engine.busy and time.perf_counter() - began < _GATHER_S:
            with self._wake:
                # What is still there is a load that waits for the engine to be idle.
                if self._commands or not self._wake.wait_for(lambda: self._commands, timeout=_LINGER_S):
                    break
            self._carry_out(engine)
        if engine.busy:
            for name, completions in engine.step():
                self._running.pop(name).set_result(completions)
        self._busy_s += time.perf_counter() - began
        return True

    def _carry_out(self, engine: EngineLike) -> None:
        while (command := self._next(engine)) is not None:
            if isinstance(command, _Load):
                self._carry_out_load(engine, command)
            else:
                self._carry_out_add(engine, command)

    def _next(self, engine: EngineLike) -> _Add | _Load | None:
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

    def _carry_out_load(self, engine: EngineLike, command: _Load) -> None:
        wanted = command.future.set_running_or_notify_cancel()  # a load is done in any case
        try:
            engine.load(command.weights(), command.version)
        except Exception as error:
            if wanted:
                command.future.set_exception(error)
            if isinstance(error, RapoError):  # damaged weights; anything else is a broken engine
                return
            raise
        if wanted:
            command.future.set_result(command.version)

    def _carry_out_add(self, engine: EngineLike, command: _Add) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        if engine.version is None:
            command.future.set_exception(WeightError("this worker holds no verified weights; load a version first"))
            return
        self._names += 1
        name = str(self._names)
        try:
            engine.add(name, command.image, command.sampling, command.seed)
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
