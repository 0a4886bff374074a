"""Daemon threads: results come in order, an error stops the rest, Ctrl-C waits for nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from rapo.errors import ResourceError
from rapo.util.daemon_threads import run_aside, run_each

WAITS = r"""
import os, signal, threading
from rapo.util.daemon_threads import run_aside, run_each
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
def wait(number):
    os.write(1, b"waits\n")  # one call: what two threads print may be mixed
    threading.Event().wait(60)
try:
    run_aside(lambda: run_each(wait, range(2), 2))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_results_have_the_order_of_their_items() -> None:
    def later(number: int) -> int:
        time.sleep(0.01 * (3 - number))
        return number * 10

    assert run_each(later, range(4), 3) == [0, 10, 20, 30]
    assert run_each(later, [], 3) == []


def test_after_an_error_nothing_else_begins() -> None:
    begun: list[int] = []

    def action(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise ResourceError("it fails")
        time.sleep(0.02)
        return number

    with pytest.raises(ResourceError, match="it fails"):
        run_each(action, range(1000), 8)
    assert len(begun) < 1000


def test_an_action_runs_aside_and_its_error_comes_back() -> None:
    assert run_aside(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ResourceError, match="it fails"):
        run_aside(lambda: run_each(_fail, [1], 1))


def _fail(number: int) -> None:
    raise ResourceError("it fails")


def test_ctrl_c_and_the_end_of_the_process_wait_for_no_action() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["waits\n"] * 2
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
        assert said == "interrupted\n"
    finally:
        process.kill()
        process.wait(10)
