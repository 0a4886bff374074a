"""Rates, pauses and Retry-After, with a clock that the test turns."""

from __future__ import annotations

import pytest

from rapo.chat.failures import pause_after, retry_after
from rapo.chat.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_minute_holds_more_requests_than_the_limit_and_one() -> None:
    clock, starts = Clock(), []
    pace = Pace(30, clock)
    for number in range(200):
        if number % 7 == 0:
            clock.now += 1.5
        starts.append(clock.now + pace.take())
    assert starts == sorted(starts)
    assert max(sum(begin <= start < begin + 60 for start in starts) for begin in starts) <= 31
    assert starts[-1] - starts[0] >= 60 * 199 / 30 - 2, "no slower than the limit, either"
    assert starts[-1] - starts[0] <= 60 * 199 / 30 + 2


def test_idle_time_is_not_saved_up_for_a_burst() -> None:
    clock = Clock()
    pace = Pace(60, clock)
    assert pace.take() == 0
    clock.now += 600
    assert [pace.take() for _ in range(3)] == pytest.approx([0, 1, 2])


def test_tokens_that_were_not_used_are_given_back() -> None:
    clock = Clock()
    pace = Pace(6000, clock)
    assert pace.take(3000) == 0
    pace.give_back(2900)
    assert pace.take(3000) == pytest.approx(1)
    assert pace.take(1) == pytest.approx(31)
    pace.give_back(-600)
    assert pace.take(1) == pytest.approx(37, abs=0.1)


def test_without_a_limit_nothing_waits() -> None:
    pace = Pace(None, Clock())
    assert [pace.take(1e9) for _ in range(3)] == [0, 0, 0]


def test_pauses_double_up_to_a_limit_and_are_jittered() -> None:
    assert [pause_after(tries, None, 0.9999999) for tries in (1, 2, 3, 4)] == pytest.approx([1, 2, 4, 8], rel=1e-5)
    assert pause_after(3, None, 0.0) == pytest.approx(2)
    assert pause_after(5000, None, 0.5) <= 60
    assert 7 <= pause_after(1, 7.0, 0.5) < 8


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:10 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=60.0) == seconds
