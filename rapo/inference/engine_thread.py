"""EngineThread: the thread that owns an engine, feeds it requests and loads weights between steps.

- Requests and loads take effect in the order of their calls. A load that a newer one has overtaken
  is skipped.
- With `continue_over_update` a load happens at once, and requests in flight continue on the new
  weights. Without it they first finish on their weights, and requests added after the load wait for
  it.
- A failed load leaves the engine without weights: requests in flight end with an error, and new
  ones are refused until a load succeeds.
- Sleep counts as a load of nothing, and always waits until no request is in flight.
- A request may be cancelled at any time; the engine drops it between two steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rapo.errors import RapoError, WeightError
from rapo.families.inputs import EncodedImage

if TYPE_CHECKING:
    import torch

#: A step costs nearly the same for one request as for many. An idle engine therefore waits this
#: long after a request for the next one of the same burst, and for a whole burst at most so long.
_BATCH_WAIT_S, _MAX_BATCH_WAIT_S = 0.004, 0.1
#: Limit of `EngineThread.close`.
_CLOSE_LIMIT_S = 60.0

#: The engine's request about an image and its result: `SamplingSpec` and completions, or
#: `ReadoutRequest` and `ReadoutResult`.
Request = TypeVar("Request")
Result = TypeVar("Result")
_RequestIn = TypeVar("_RequestIn", contravariant=True)
_ResultOut = TypeVar("_ResultOut", covariant=True)
_Value = TypeVar("_Value")


class EngineLike(Protocol[_RequestIn, _ResultOut]):
    """What the thread needs of an engine; see `rapo.inference.engine.Engine` and its subclasses."""

    version: int | None

    @property
    def busy(self) -> bool: ...
    def add(self, name: str, image: EncodedImage, request: _RequestIn, seed: int, /) -> None: ...
    def cancel(self, name: str) -> None: ...
    def step(self) -> Sequence[tuple[str, _ResultOut]]: ...
    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None: ...
    def sleep(self) -> None: ...


@dataclass(slots=True)
class _Add(Generic[Request, Result]):
    image: EncodedImage
    request: Request
    seed: int
    future: Future[Result] = field(default_factory=Future)


@dataclass(slots=True)
class _Load:
    weights: Callable[[], Iterable[tuple[str, torch.Tensor]]] | None  # None: sleep
    version: int
    future: Future[int] = field(default_factory=Future)


class EngineThread(Generic[Request, Result]):
    """Runs the engine that `make` returns in a thread of its own. `add`, `cancel` and `load` may be
    called from any thread.

    An idle engine waits up to `batch_wait_s` for more requests of the same burst before it starts;
    0 starts at once. `started` holds the engine once it is made, or the error of `make`.
    """

    def __init__(
        self,
        make: Callable[[], EngineLike[Request, Result]],
        *,
        continue_over_update: bool = False,
        batch_wait_s: float = _BATCH_WAIT_S,
    ) -> None:
        self._make = make
        self._continue_over_update = continue_over_update
        self._batch_wait_s = batch_wait_s
        self._wake = threading.Condition()
        self._commands: deque[_Add[Request, Result] | _Load] = deque()
        self._cancelled: deque[Future[Result]] = deque()
        self._running: dict[str, Future[Result]] = {}
        self._closed = False
        self._names = 0
        self._busy_s = 0.0
        self._step_began: float | None = None
        self._failure: Exception | None = None
        self.started: Future[EngineLike[Request, Result]] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """The seconds for which the engine has worked since it was made."""
        return self._busy_s

    @property
    def in_flight(self) -> int:
        """The number of requests that wait for the engine or are in it."""
        return len(self._commands) + len(self._running)

    @property
    def step_seconds(self) -> float:
        """The age of the engine's present step in seconds; 0 between steps and while it idles."""
        began = self._step_began
        return time.perf_counter() - began if began is not None else 0.0

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests: it is starting or running."""
        return self._failure is None

    def add(self, image: EncodedImage, request: Request, seed: int) -> Future[Result]:
        """Add a request; the future holds its result.

        It holds `ValueError` where the engine refuses the request, and `WeightError` where the
        engine holds no weights.
        """
        command: _Add[Request, Result] = _Add(image, request, seed)
        return self._enqueue(command, command.future)

    def cancel(self, future: Future[Result]) -> None:
        """Stop the request of a future of `add`, which then ends with `CancelledError`. A future
        that is done stays as it is."""
        if future.cancel() or future.done():
            return
        with self._wake:
            self._cancelled.append(future)
            self._wake.notify()

    def load(self, weights: Callable[[], Iterable[tuple[str, torch.Tensor]]], version: int) -> Future[int]:
        """Load `weights()` as `version`; the future holds the version that the engine then has:
        `version`, or a newer one that overtook it."""
        command = _Load(weights, version)
        return self._enqueue(command, command.future)

    def sleep(self) -> Future[int]:
        """Have the engine give up its memory until the next `load`, once no request is in flight.
        The future holds no version."""
        command = _Load(None, 0)
        return self._enqueue(command, command.future)

    def close(self) -> None:
        """End the thread after its present step; unfinished requests end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=_CLOSE_LIMIT_S)

    def _enqueue(self, command: _Add[Request, Result] | _Load, future: Future[_Value]) -> Future[_Value]:
        with self._wake:
            if self._failure is not None:
                future.set_exception(self._failure)
            else:
                self._commands.append(command)
                self._wake.notify()
        return future

    def _run(self) -> None:
        try:
            engine = self._make()
        except Exception as error:  # noqa: BLE001 - passed on to the callers that wait for the start
            self._fail_all(error)
            self.started.set_exception(error)
            return
        self.started.set_result(engine)
        try:
            while self._run_once(engine):
                pass
            self._fail_all(RuntimeError("the engine was closed"))
        except Exception as error:  # noqa: BLE001 - the engine is broken; passed on to all waiting callers
            self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        if isinstance(error, ValueError):  # which would say that a request is at fault
            broken = RuntimeError(f"the engine is broken: {error!r}")
            broken.__cause__ = error
            error = broken
        with self._wake:
            self._failure = error
            waiting: list[Future[Result] | Future[int]] = [command.future for command in self._commands]
            waiting += self._running.values()
            self._commands.clear()
            self._running.clear()
        for future in waiting:
            if not future.cancelled():
                future.set_exception(error)

    def _run_once(self, engine: EngineLike[Request, Result]) -> bool:
        """Carry out the commands that may run now, then one step. False once closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._commands or self._cancelled or engine.busy)
            if self._closed:
                return False
        began, idle = time.perf_counter(), not engine.busy
        self._step_began = began
        self._drop_cancelled(engine)
        self._run_commands(engine)
        while self._batch_wait_s and idle and engine.busy and time.perf_counter() - began < _MAX_BATCH_WAIT_S:
            with self._wake:
                # A command that is still there is a load that waits for the engine to be idle.
                if self._commands or not self._wake.wait_for(lambda: self._commands, timeout=self._batch_wait_s):
                    break
            self._run_commands(engine)
        if engine.busy:
            for name, result in engine.step():
                self._running.pop(name).set_result(result)
        self._step_began = None
        self._busy_s += time.perf_counter() - began
        return True

    def _drop_cancelled(self, engine: EngineLike[Request, Result]) -> None:
        with self._wake:
            cancelled, self._cancelled = set(self._cancelled), deque()
        for name in [name for name, future in self._running.items() if future in cancelled]:
            engine.cancel(name)
            self._running.pop(name).set_exception(CancelledError())

    def _run_commands(self, engine: EngineLike[Request, Result]) -> None:
        while (command := self._next_command(engine)) is not None:
            if isinstance(command, _Load):
                self._run_load(engine, command)
            else:
                self._run_add(engine, command)

    def _next_command(self, engine: EngineLike[Request, Result]) -> _Add[Request, Result] | _Load | None:
        """The next command that may run now. Of several loads it is the newest, which the futures
        of the others then follow."""
        with self._wake:
            if not self._commands:
                return None
            if isinstance(self._commands[0], _Add):
                return self._commands.popleft()
            loads = [command for command in self._commands if isinstance(command, _Load)]
            newest = loads[-1]
            if engine.busy and (newest.weights is None or not self._continue_over_update):
                return None
            self._commands = deque(command for command in self._commands if isinstance(command, _Add))
        for load in loads:
            if load is not newest:
                newest.future.add_done_callback(_forward_to(load.future))
        return newest

    def _run_load(self, engine: EngineLike[Request, Result], command: _Load) -> None:
        wanted = command.future.set_running_or_notify_cancel()  # a cancelled load is carried out all the same
        try:
            if command.weights is None:
                engine.sleep()
            else:
                engine.load(command.weights(), command.version)
        except Exception as error:
            if wanted:
                command.future.set_exception(error)
            if isinstance(error, RapoError):  # damaged weights; any other error means a broken engine
                if engine.version is None:
                    self._fail_running(engine)
                return
            raise
        if wanted:
            command.future.set_result(command.version)

    def _fail_running(self, engine: EngineLike[Request, Result]) -> None:
        """End the requests in flight: the version of their further tokens would be unknown."""
        while self._running:
            name, future = self._running.popitem()
            future.set_exception(WeightError("this worker lost its weights in a load that failed; ask another one"))
            engine.cancel(name)

    def _run_add(self, engine: EngineLike[Request, Result], command: _Add[Request, Result]) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        if engine.version is None:
            command.future.set_exception(WeightError("this worker holds no verified weights; load a version first"))
            return
        self._names += 1
        name = str(self._names)
        try:
            engine.add(name, command.image, command.request, command.seed)
        except Exception as error:
            command.future.set_exception(error)
            if isinstance(error, ValueError):  # the request is at fault; any other error means a broken engine
                return
            raise
        self._running[name] = command.future


def _forward_to(other: Future[int]) -> Callable[[Future[int]], None]:
    """A callback that gives `other` the outcome of the future that it is called with."""

    def forward(done: Future[int]) -> None:
        if not other.set_running_or_notify_cancel():
            return
        error = CancelledError() if done.cancelled() else done.exception()
        if error is None:
            other.set_result(done.result())
        else:
            other.set_exception(error)

    return forward
