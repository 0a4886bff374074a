"""BulkStream, with a clock that the test sets."""

from __future__ import annotations

import pytest
from fake_scorer import busy, status
from google.rpc import code_pb2

from rapo.client.connection import RetryPolicy
from rapo.client.errors import CallError, ended_early, from_status
from rapo.client.stream import BulkStream
from rapo.v1 import scorer_pb2


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def job(clock: Clock, images: int, attempts: int = 5) -> BulkStream:
    bulk = BulkStream(RetryPolicy(attempts, 1.0, 4.0), limit_s=30, clock=clock)
    for index in range(images):
        bulk.admit(index, b"x", scorer_pb2.ScoreRequest(image=b"x"))
    return bulk


def answer(request: scorer_pb2.ScoreRequest) -> scorer_pb2.ScoreResult:
    return scorer_pb2.ScoreResult(request_id=request.request_id, response=scorer_pb2.ScoreResponse(score=0.5))


def test_a_second_result_or_an_unknown_one_is_dropped(clock: Clock) -> None:
    bulk = job(clock, 1)
    (request,) = bulk.to_send()
    first = bulk.take(answer(request))
    assert first is not None
    assert first.result is not None
    assert bulk.take(answer(request)) is None
    assert bulk.take(scorer_pb2.ScoreResult(request_id="unknown")) is None
    assert len(bulk) == 0


def test_a_break_sends_again_only_what_is_unanswered(clock: Clock) -> None:
    bulk = job(clock, 3)
    requests = bulk.to_send()
    bulk.take(answer(requests[1]))
    bulk.broken(ended_early())
    assert bulk.to_send() == []
    assert 0.8 <= bulk.patience() <= 1.2
    clock.now += 1.3
    assert bulk.to_send() == [requests[0], requests[2]]
    assert bulk.to_send() == []


def test_an_image_waits_as_long_as_the_service_says(clock: Clock) -> None:
    bulk = job(clock, 2)
    first, second = bulk.to_send()
    assert bulk.take(scorer_pb2.ScoreResult(request_id=first.request_id, error=busy(10))) is None
    clock.now += 9.9
    assert bulk.to_send() == []
    clock.now += 2.2
    assert bulk.to_send() == [first]
    assert bulk.take(answer(second)) is not None


def test_an_error_that_will_not_pass_is_an_outcome(clock: Clock) -> None:
    bulk = job(clock, 1)
    (request,) = bulk.to_send()
    refusal = status(code_pb2.RESOURCE_EXHAUSTED, "too large", "too_large")
    outcome = bulk.take(scorer_pb2.ScoreResult(request_id=request.request_id, error=refusal))
    assert outcome is not None
    assert isinstance(outcome.error, CallError)


def test_it_is_given_up_after_silence_and_not_while_there_are_answers(clock: Clock) -> None:
    bulk = job(clock, 3)
    first, second, _ = bulk.to_send()
    for request in (first, second):
        clock.now += 29
        bulk.check("here")
        bulk.take(answer(request))
    clock.now += 31
    with pytest.raises(CallError, match="none of 1 images within 30 s"):
        bulk.check("here")
    with pytest.raises(CallError, match="closed the stream"):
        bulk.broken(ended_early())


@pytest.mark.parametrize("code", [code_pb2.UNAUTHENTICATED, code_pb2.UNIMPLEMENTED, code_pb2.RESOURCE_EXHAUSTED])
def test_a_refused_stream_is_given_up_at_once(clock: Clock, code: int) -> None:
    with pytest.raises(CallError, match="no"):
        job(clock, 1).broken(from_status(status(code, "no", "no")))


def test_a_stream_that_fails_inside_is_given_up_after_the_attempts(clock: Clock) -> None:
    bulk = job(clock, 1)
    error = from_status(status(code_pb2.INTERNAL, "no", "internal"))
    for _ in range(4):
        bulk.broken(error)
    with pytest.raises(CallError, match="no"):
        bulk.broken(error)


def test_one_attempt_means_no_second_one(clock: Clock) -> None:
    bulk = job(clock, 1, attempts=1)
    (request,) = bulk.to_send()
    with pytest.raises(CallError):
        bulk.broken(ended_early())
    assert bulk.take(scorer_pb2.ScoreResult(request_id=request.request_id, error=busy(1))) is not None
