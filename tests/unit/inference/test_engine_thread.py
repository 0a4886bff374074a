"""The engine loop's order of things, with an engine that counts instead of computing."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest
from builders import make_image

from rapo.errors import WeightError
from rapo.inference.engine_thread import EngineThread
from rapo.inference.types import Completion, SamplingSpec

LIMIT = 10.0


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

    def add(self, name: str, image: Any, sampling: SamplingSpec, seed: int) -> None:
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
        for name, drawn in list(self.tokens.items()):
            drawn.append(self.version)
            if len(drawn) == self.wanted[name]:
                del self.tokens[name]
                versions = np.array(drawn, np.int32)
                done.append((name, [Completion(versions, None, "stop", versions)]))
        self.stepped.release()
        return done

    def load(self, weights: Any, version: int) -> int:
        self.threads.add(threading.get_ident())
        self.version = None
        if list(weights) == ["bad"]:
            raise WeightError("damaged")
        self.version = version
        self.loads.append(version)
        return 1

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.gate.release()
            assert self.stepped.acquire(timeout=LIMIT)


@pytest.fixture
def engine():
    return CountingEngine()


@pytest.fixture
def loop(engine):
    made = EngineThread(lambda: engine)
    yield made
    engine.gate.release(100)
    made.close()


def ask(loop: EngineThread[SamplingSpec, list[Completion]], tokens: int, seed: int = 0) -> Future[list[Completion]]:
    return loop.add(make_image(), SamplingSpec(1, 1.0, tokens), seed)


def versions(future: Future[list[Completion]]) -> list[int]:
    return future.result(LIMIT)[0].versions.tolist()


def test_requests_join_while_others_run(engine, loop):
    first = ask(loop, 3)
    engine.steps(1)
    second = ask(loop, 1)
    # The first may be drawing its second token when the second request arrives; it still joins
    # before the first has ended.
    engine.steps(2)
    assert versions(first) == [0, 0, 0]
    engine.gate.release(5)
    assert versions(second) == [0]
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads
    assert loop.busy_seconds > 0


def test_requests_finish_on_their_version_and_later_ones_get_the_new(engine, loop):
    before = ask(loop, 3)
    engine.steps(1)
    load = loop.load(list, 1)
    after = ask(loop, 2)
    engine.steps(1)
    assert not load.done()
    engine.gate.release(10)
    assert versions(before) == [0, 0, 0]
    assert load.result(LIMIT) == 1
    assert versions(after) == [1, 1]


def test_requests_continue_over_an_update_where_asked_to(engine):
    loop = EngineThread(lambda: engine, continue_over_update=True)
    try:
        before = ask(loop, 4)
        engine.steps(2)
        load = loop.load(list, 1)
        engine.gate.release(1)  # the step that may have begun already
        assert load.result(LIMIT) == 1
        engine.gate.release(10)
        drawn = versions(before)
        assert drawn[:2] == [0, 0]
        assert drawn[-1] == 1
        assert drawn == sorted(drawn)
    finally:
        loop.close()


def test_a_load_that_is_overtaken_is_skipped(engine, loop):
    running = ask(loop, 2)
    engine.steps(1)
    loads = [loop.load(list, version) for version in (1, 2, 3)]
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert [load.result(LIMIT) for load in loads] == [3, 3, 3]
    assert engine.loads == [3]


def test_damaged_weights_refuse_requests_until_a_good_load(engine, loop):
    engine.gate.release(100)
    with pytest.raises(WeightError, match="damaged"):
        loop.load(lambda: ["bad"], 1).result(LIMIT)
    with pytest.raises(WeightError, match="no verified weights"):
        ask(loop, 1).result(LIMIT)
    assert loop.load(list, 2).result(LIMIT) == 2
    assert versions(ask(loop, 1)) == [2]


def test_damaged_weights_in_mid_answer_end_what_is_under_way(engine):
    loop = EngineThread(lambda: engine, continue_over_update=True)
    running = ask(loop, 50)
    engine.steps(1)
    load = loop.load(lambda: ["bad"], 1)
    engine.gate.release(100)
    with pytest.raises(WeightError, match="damaged"):
        load.result(LIMIT)
    with pytest.raises(WeightError, match="lost its weights"):
        running.result(LIMIT)
    assert not engine.busy
    assert loop.load(list, 2).result(LIMIT) == 2
    assert versions(ask(loop, 1)) == [2]
    loop.close()


def test_a_request_that_nobody_waits_for_any_more_is_not_begun(engine, loop):
    first = ask(loop, 2)
    engine.steps(1)
    given_up = ask(loop, 1)
    assert given_up.cancel()
    engine.gate.release(10)
    assert versions(first) == [0, 0]
    assert versions(ask(loop, 1)) == [0]


def test_a_cancelled_request_leaves_the_engine_and_the_others_go_on(engine, loop):
    first, second = ask(loop, 4), ask(loop, 1000)
    engine.steps(1)
    loop.cancel(second)
    engine.gate.release(1)  # the step that may have begun already
    with pytest.raises(CancelledError):
        second.result(LIMIT)
    engine.gate.release(10)
    assert versions(first) == [0, 0, 0, 0]
    assert not engine.tokens
    assert len(engine.threads) == 1


def test_cancelling_what_is_done_or_not_begun_changes_nothing(engine, loop):
    done = ask(loop, 1)
    engine.steps(1)
    assert versions(done) == [0]
    running = ask(loop, 2)
    engine.steps(1)
    waiting = ask(loop, 1)
    loop.cancel(done)
    loop.cancel(waiting)
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert versions(done) == [0]
    with pytest.raises(CancelledError):
        waiting.result(LIMIT)


def test_without_lingering_an_idle_engine_starts_at_once(engine):
    loop = EngineThread(lambda: engine, linger_s=0.0)
    try:
        first = ask(loop, 1)
        engine.steps(1)
        assert versions(first) == [0]
    finally:
        loop.close()


def test_a_refused_request_fails_alone(engine, loop):
    engine.gate.release(100)
    with pytest.raises(ValueError, match="refused"):
        ask(loop, 1, seed=-1).result(LIMIT)
    assert versions(ask(loop, 2)) == [0, 0]


def test_a_broken_engine_fails_all_who_wait_and_who_come_later(engine, loop):
    first = ask(loop, 5)
    engine.steps(1)
    engine.version = None  # its next step fails
    second = ask(loop, 1)
    engine.gate.release(10)
    with pytest.raises(AssertionError):
        first.result(LIMIT)
    with pytest.raises((AssertionError, WeightError)):  # refused, if it came before the step
        second.result(LIMIT)
    with pytest.raises(AssertionError):
        ask(loop, 1).result(LIMIT)


def test_an_unexpected_failure_reaches_the_one_who_asked(engine, loop, monkeypatch):
    """And not only the others: a caller whose command broke the engine would wait for ever."""

    def broken(*arguments):
        raise OSError("the device is gone")

    monkeypatch.setattr(engine, "load", broken)
    with pytest.raises(OSError, match="device is gone"):
        loop.load(list, 1).result(LIMIT)
    with pytest.raises(OSError, match="device is gone"):
        ask(loop, 1).result(LIMIT)


def test_a_request_that_breaks_the_engine_is_answered(engine, loop, monkeypatch):
    def broken(*arguments):
        raise OSError("the device is gone")

    monkeypatch.setattr(engine, "add", broken)
    with pytest.raises(OSError, match="device is gone"):
        ask(loop, 1).result(LIMIT)


def test_a_load_that_was_given_up_does_not_break_the_engine(engine, loop):
    running = ask(loop, 2)
    engine.steps(1)
    assert loop.load(list, 1).cancel()
    engine.gate.release(10)
    assert versions(running) == [0, 0]
    assert versions(ask(loop, 1)) == [1]


def test_an_engine_that_does_not_start_says_so():
    def fail() -> CountingEngine:
        raise OSError("no such folder")

    loop = EngineThread(fail)
    with pytest.raises(OSError, match="no such folder"):
        loop.started.result(LIMIT)
    with pytest.raises(OSError, match="no such folder"):
        ask(loop, 1).result(LIMIT)


def test_closing_ends_what_waits(engine):
    loop = EngineThread(lambda: engine)
    waiting = ask(loop, 50)
    engine.steps(1)
    engine.gate.release(3)
    loop.close()
    with pytest.raises((RuntimeError, CancelledError), match="closed"):
        waiting.result(LIMIT)
