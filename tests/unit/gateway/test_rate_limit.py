"""RateLimit, with a clock that the test sets."""

from __future__ import annotations

import pytest

from services.gateway.rate_limit import _MAX_BUCKETS, RateLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_passes_then_the_rate_holds(clock: Clock) -> None:
    limit = RateLimit(2.0, 4, clock)
    assert [limit.take("a", 1) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    clock.now = 0.5
    assert [limit.take("a", 1), limit.take("a", 1)] == [0, 0.5]
    clock.now = 1000
    assert [limit.take("a", 1) for _ in range(5)] == [0, 0, 0, 0, 0.5]  # never more than the burst


def test_clients_do_not_share(clock: Clock) -> None:
    limit = RateLimit(1.0, 1, clock)
    assert [limit.take("a", 1), limit.take("a", 1), limit.take("b", 1)] == [0, 1, 0]


def test_a_batch_beyond_the_burst_leaves_a_debt(clock: Clock) -> None:
    limit = RateLimit(1.0, 4, clock)
    assert limit.take("a", 10) == 0
    assert limit.take("a", 1) == 7
    clock.now = 7
    assert limit.take("a", 1) == 0
    assert limit.take("a", 10) == 4


def test_without_a_rate_nothing_is_counted(clock: Clock) -> None:
    limit = RateLimit(0.0, 1, clock)
    assert [limit.take("a", 1000) for _ in range(3)] == [0, 0, 0]


def test_the_buckets_of_clients_that_left_are_given_up(clock: Clock) -> None:
    limit = RateLimit(1.0, 1, clock)
    for index in range(_MAX_BUCKETS):
        limit.take(f"c{index}", 1)
    clock.now = 10
    limit.take("late", 1)
    assert limit._buckets.keys() == {"late"}
    assert limit.take("late", 1) == 1
