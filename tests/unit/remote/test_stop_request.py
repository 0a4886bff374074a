"""Stop requests: the first SIGTERM is a request, the second one is what it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cluster.remote.stop_request import stop_requests


def test_the_first_sigterm_only_asks_and_the_second_does_not() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with stop_requests() as stop:
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            assert came == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert came == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.timeout(20)
def test_another_thread_changes_no_handler() -> None:
    before, told = signal.getsignal(signal.SIGTERM), list[bool]()

    def work() -> None:
        with stop_requests() as stop:
            told.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert told == [False]
    assert signal.getsignal(signal.SIGTERM) is before
