"""Daemon threads: calls that Ctrl-C does not have to wait for.

- Python handles no signal while a library's call runs in the main thread. Here the main thread
  waits for another one, and Ctrl-C ends that wait. A signal that comes just before a wait begins
  does not end it, so each wait is short.
- The interpreter's end does not wait for daemon threads, as it does for those of a
  `ThreadPoolExecutor`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import NoReturn, TypeVar

#: How the names of the threads begin that a process may leave behind.
PREFIX = "rapo-"
#: The longest that Ctrl-C may take.
_WAIT_S = 0.5

A = TypeVar("A")
T = TypeVar("T")


def run_aside(action: Callable[[], T]) -> T:
    """The result of an action that runs in a thread of its own. Ctrl-C leaves the action behind."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread, which raises it
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"{PREFIX}aside", daemon=True).start()
    while not wait([outcome], _WAIT_S).done:
        pass
    return outcome.result()


def run_each(action: Callable[[A], T], items: Iterable[A], threads: int) -> list[T]:
    """The results of an action for each item, in their order, `threads` at a time. After an error
    no other action begins; the first one is raised when those that run have ended."""
    pending = deque(enumerate(items))
    results: dict[int, T] = {}
    failed: list[BaseException] = []

    def work() -> None:
        while not failed:
            try:
                number, item = pending.popleft()
            except IndexError:
                return
            try:
                results[number] = action(item)
            except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread, which raises it
                failed.append(error)

    workers = [
        threading.Thread(target=work, name=f"{PREFIX}each", daemon=True) for _ in range(min(threads, len(pending)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return [results[number] for number in range(len(results))]


def leave(status: int) -> NoReturn:
    """End the process with `status`. Where actions were left behind, what libraries do at the
    interpreter's end is left out: pyarrow would wait there for each answer of S3."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.daemon and thread.name.startswith(PREFIX) for thread in threading.enumerate()):
        os._exit(status)
    sys.exit(status)
