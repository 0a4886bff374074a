"""When the fleet grows and shrinks."""

from __future__ import annotations

import pytest

from cluster.rollout.autoscale import Autoscaler
from rapo.config import RolloutAutoscaleConfig

SETTINGS = RolloutAutoscaleConfig(enabled=True, min_workers=1, window=2, out_cooldown_s=30.0, in_cooldown_s=120.0)


def decisions(scaler, shares, workers, *, start=1000.0, every=10.0, ready=None):
    """What is wanted after each step."""
    wanted = []
    for number, (rollout, learner) in enumerate(shares):
        there = workers if ready is None else ready
        workers = scaler.decide(start + every * number, workers, there, rollout, learner)
        wanted.append(workers)
    return wanted


def test_a_learner_that_waits_gets_more_workers():
    # Workers are never idle and the learner works a third of the time: three times as many would
    # do, twice is the most at once.
    assert decisions(Autoscaler(SETTINGS, 8), [(0.0, 0.66), (0.0, 0.66)], 2) == [2, 4]
    assert decisions(Autoscaler(SETTINGS, 3), [(0.0, 0.66), (0.0, 0.66)], 2) == [2, 3], "no more than allowed"
    assert decisions(Autoscaler(SETTINGS, 8), [(0.1, 0.25), (0.1, 0.25)], 4) == [4, 5]


def test_idle_workers_are_given_back_one_at_a_time_and_never_the_last():
    shares = [(0.8, 0.0)] * 30
    wanted = decisions(Autoscaler(SETTINGS, 8), shares, 3)
    assert wanted[1] == 2
    assert wanted[12] == 2, "the cool-down of 120 s has not passed"
    assert wanted[13:15] == [1, 1]
    assert wanted[-1] == 1


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.6, 0.6), (0.0, 0.0)])
def test_where_both_or_neither_wait_nothing_changes(shares):
    assert set(decisions(Autoscaler(SETTINGS, 8), [shares] * 10, 4)) == {4}


def test_nothing_is_decided_before_the_last_change_shows():
    assert set(decisions(Autoscaler(SETTINGS, 8), [(0.0, 0.9)] * 5, 4, ready=3)) == {4}, "one is still on its way"
    wanted = decisions(Autoscaler(SETTINGS, 64), [(0.0, 0.9)] * 8, 2)
    assert wanted[:2] == [2, 4]
    assert wanted[2:4] == [4, 4], "30 s have not passed"
    assert wanted[4] == 8
