"""EngineThread: the order of requests, steps and loads, with an engine that counts instead of
computing."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from rapo.errors import WeightError
from rapo.families.inputs import EncodedImage
from rapo.inference.engine_thread import EngineThread
from rapo.inference.types import Completion, SamplingSpec

LIMIT = 10.0
IMAGE = EncodedImage({}, [7], "key")
# Weights that the engine finds damaged.
DAMAGED = [("damaged", None)]
#: In `CountingEngine.loads`, where the engine went to sleep.
ASLEEP = -1


class CountingEngine:
    """A request needs as many steps as `sampling.max_tokens`; each token has the version held.
    `gate` lets steps pass."""

    def __init__(self) -> None:
        self.version: int | None = 0
        self.gate = threading.Semaphore(0)
        self.stepped = threading.Semaphore(0)
        self.tokens: dict[str, list[int]] = {}
        self.wanted: dict[str, int] = {}
        self.loads: list[int] = []
        self.threads: set[int] = set()

    @property
    def busy(self) -> bool:
        return bool(self.tokens)

    def add(self, name: str, image: EncodedImage, sampling: SamplingSpec, seed: int) -> None:
        if seed < 0:
            raise ValueError("refused")
        self.tokens[name], self.wanted[name] = [], sampling.max_tokens

    def cancel(self, name: str) -> None:
        self.threads.add(threading.get_ident())
        del self.tokens[name]

    def step(self) -> list[tuple[str, list[Completion]]]:
        self.threads.add(threading.get_ident())
        assert self.gate.acquire(timeout=LIMIT)
        assert self.version is not None
        done = []
        for name, sampled in list(self.tokens.items()):
            sampled.append(self.version)
            if len(sampled) == self.wanted[name]:
                del self.tokens[name]
                versions = np.array(sampled, np.int32)
                done.append((name, [Completion(versions, None, "stop", versions)]))
        self.stepped.release()
        return done

    def load(self, weights: Iterable[object], version: int) -> None:
        self.threads.add(threading.get_ident())
        self.version = None
        if list(weights) == DAMAGED:
            raise WeightError("damaged")
        self.version = version
        self.loads.append(version)

    def sleep(self) -> None:
        assert not self.tokens
        self.version = None
        self.loads.append(ASLEEP)

    def steps(self, count: int) -> None:
        """Let this many steps pass, and wait for each."""
        for _ in range(count):
            self.gate.release()
            assert self.stepped.acquire(timeout=LIMIT)


@pytest.fixture
def engine():
    return CountingEngine()


@pytest.fixture
def thread(engine):
    made = EngineThread(lambda: engine)
    yield made
    engine.gate.release(100)
    made.close()


def request(
    thread: EngineThread[SamplingSpec, list[Completion]], tokens: int, seed: int = 0
) -> Future[list[Completion]]:
    return thread.add(IMAGE, SamplingSpec(1, 1.0, tokens), seed)


def versions(future: Future[list[Completion]]) -> list[int]:
    return future.result(LIMIT)[0].versions.tolist()


def test_requests_join_while_others_run(engine, thread):
    first = request(thread, 3)
    engine.steps(1)
    second = request(thread, 1)
    # The first may be sampling its second token when the second request arrives; it still joins
    # before the first has ended.
    engine.steps(2)
    assert versions(first) == [0, 0, 0]
    engine.gate.release(5)
    assert versions(second) == [0]
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads
    assert thread.busy_seconds > 0


def test_requests_finish_on_their_version_and_later_ones_get_the_new_one(engine, thread):
    before = request(thread, 3)
    engine.steps(1)
    load = thread.load(list, 1)
    after = request(thread, 2)
    engine.steps(1)
    assert not load.done()
    engine.gate.release(10)
    assert versions(before) == [0, 0, 0]
    assert load.result(LIMIT) == 1
    assert versions(after) == [1, 1]


def test_requests_continue_over_an_update_where_configured(engine):
    thread = EngineThread(lambda: engine, continue_over_update=True)
    try:
        before = request(thread, 4)
        engine.steps(2)
        load = thread.load(list, 1)
        engine.gate.release(1)  # the step that may have begun already
        assert load.result(LIMIT) == 1
        engine.gate.release(10)
        sampled = versions(before)
        assert sampled[:2] == [0, 0]
        assert sampled[-1] == 1
        assert sampled == sorted(sampled)
    finally:
        thread.close()


def test_a_load_that_is_overtaken_is_skipped(engine, thread):
    running = request(thread, 2)
    engine.steps(1)
    loads = [thread.load(list, version) for version in (1, 2, 3)]
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert [load.result(LIMIT) for load in loads] == [3, 3, 3]
    assert engine.loads == [3]


def test_damaged_weights_refuse_requests_until_a_good_load(engine, thread):
    engine.gate.release(100)
    with pytest.raises(WeightError, match="damaged"):
        thread.load(lambda: DAMAGED, 1).result(LIMIT)
    with pytest.raises(WeightError, match="no verified weights"):
        request(thread, 1).result(LIMIT)
    assert thread.load(list, 2).result(LIMIT) == 2
    assert versions(request(thread, 1)) == [2]


def test_damaged_weights_in_mid_answer_end_the_requests_in_flight(engine):
    thread = EngineThread(lambda: engine, continue_over_update=True)
    running = request(thread, 50)
    engine.steps(1)
    load = thread.load(lambda: DAMAGED, 1)
    engine.gate.release(100)
    with pytest.raises(WeightError, match="damaged"):
        load.result(LIMIT)
    with pytest.raises(WeightError, match="lost its weights"):
        running.result(LIMIT)
    assert not engine.busy
    assert thread.load(list, 2).result(LIMIT) == 2
    assert versions(request(thread, 1)) == [2]
    thread.close()


def test_a_cancelled_request_that_waits_is_not_started(engine, thread):
    first = request(thread, 2)
    engine.steps(1)
    cancelled = request(thread, 1)
    assert cancelled.cancel()
    engine.gate.release(10)
    assert versions(first) == [0, 0]
    assert versions(request(thread, 1)) == [0]


def test_a_cancelled_request_leaves_the_engine_and_the_others_go_on(engine, thread):
    first, second = request(thread, 4), request(thread, 1000)
    engine.steps(1)
    thread.cancel(second)
    engine.gate.release(1)  # the step that may have begun already
    with pytest.raises(CancelledError):
        second.result(LIMIT)
    engine.gate.release(10)
    assert versions(first) == [0, 0, 0, 0]
    assert not engine.tokens
    assert len(engine.threads) == 1


def test_cancelling_leaves_done_and_running_requests_alone(engine, thread):
    done = request(thread, 1)
    engine.steps(1)
    assert versions(done) == [0]
    running = request(thread, 2)
    engine.steps(1)
    waiting = request(thread, 1)
    thread.cancel(done)
    thread.cancel(waiting)
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert versions(done) == [0]
    with pytest.raises(CancelledError):
        waiting.result(LIMIT)


def test_without_a_batch_wait_an_idle_engine_starts_at_once(engine):
    thread = EngineThread(lambda: engine, batch_wait_s=0.0)
    try:
        first = request(thread, 1)
        engine.steps(1)
        assert versions(first) == [0]
    finally:
        thread.close()


def test_a_refused_request_fails_alone(engine, thread):
    engine.gate.release(100)
    with pytest.raises(ValueError, match="refused"):
        request(thread, 1, seed=-1).result(LIMIT)
    assert versions(request(thread, 2)) == [0, 0]


def test_a_broken_engine_fails_all_waiting_and_all_later_requests(engine, thread):
    first = request(thread, 5)
    engine.steps(1)
    engine.version = None  # its next step fails
    second = request(thread, 1)
    engine.gate.release(10)
    with pytest.raises(AssertionError):
        first.result(LIMIT)
    with pytest.raises((AssertionError, WeightError)):  # refused, if it came before the step
        second.result(LIMIT)
    with pytest.raises(AssertionError):
        request(thread, 1).result(LIMIT)


def test_a_broken_engine_is_not_taken_for_a_refused_request(engine, thread, monkeypatch):
    def broken() -> list[tuple[str, list[Completion]]]:
        raise ValueError("an index is out of range")

    monkeypatch.setattr(engine, "step", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"engine is broken: .*out of range"):
            request(thread, 1).result(LIMIT)
    assert not thread.alive


def test_an_unexpected_failure_reaches_its_own_caller(engine, thread, monkeypatch):
    """Otherwise the caller whose command broke the engine would wait for ever."""

    def broken(*arguments):
        raise OSError("the device is gone")

    monkeypatch.setattr(engine, "load", broken)
    with pytest.raises(OSError, match="device is gone"):
        thread.load(list, 1).result(LIMIT)
    with pytest.raises(OSError, match="device is gone"):
        request(thread, 1).result(LIMIT)


def test_a_request_that_breaks_the_engine_fails(engine, thread, monkeypatch):
    def broken(*arguments):
        raise OSError("the device is gone")

    monkeypatch.setattr(engine, "add", broken)
    with pytest.raises(OSError, match="device is gone"):
        request(thread, 1).result(LIMIT)


def test_a_cancelled_load_does_not_break_the_engine(engine, thread):
    running = request(thread, 2)
    engine.steps(1)
    assert thread.load(list, 1).cancel()
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert versions(request(thread, 1)) == [1]


def test_an_engine_that_does_not_start_says_so():
    def fail() -> CountingEngine:
        raise OSError("no such folder")

    thread = EngineThread(fail)
    with pytest.raises(OSError, match="no such folder"):
        thread.started.result(LIMIT)
    with pytest.raises(OSError, match="no such folder"):
        request(thread, 1).result(LIMIT)


def test_closing_ends_the_waiting_requests(engine):
    thread = EngineThread(lambda: engine)
    waiting = request(thread, 50)
    engine.steps(1)
    engine.gate.release(3)
    thread.close()
    with pytest.raises((RuntimeError, CancelledError), match="closed"):
        waiting.result(LIMIT)


@pytest.mark.parametrize("going_on", [False, True])
def test_an_engine_sleeps_when_no_request_is_in_flight_and_wakes_with_a_load(engine, going_on):
    thread = EngineThread(lambda: engine, continue_over_update=going_on)
    try:
        before = request(thread, 3)
        engine.steps(1)
        sleep = thread.sleep()
        engine.steps(1)
        assert not sleep.done()
        engine.gate.release(10)
        assert versions(before) == [0, 0, 0]
        sleep.result(LIMIT)
        with pytest.raises(WeightError, match="holds no verified weights"):
            request(thread, 1).result(LIMIT)
        assert thread.load(list, 1).result(LIMIT) == 1
        assert versions(request(thread, 1)) == [1]
        assert engine.loads == [ASLEEP, 1]
    finally:
        engine.gate.release(100)
        thread.close()


def test_a_sleep_that_a_load_overtakes_is_skipped_like_a_load(engine, thread):
    running = request(thread, 2)
    engine.steps(1)
    sleep, load = thread.sleep(), thread.load(list, 1)
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert load.result(LIMIT) == 1
    assert sleep.result(LIMIT) == 1
    assert engine.loads == [1]
