"""The parts of the learner group that need no Ray."""

from typing import Any

import pytest

from actors.messages import RankFigures, RankInfo
from cluster.learner.group import LearnerGroup, merge_figures
from cluster.remote.weight_source import Broadcast, Receivers
from rapo.config import load_config
from rapo.records import Meeting

SAME = {"grad_norm": 2.5, "learning_rate": 1e-4}


def test_sums_over_ranks_become_means_per_token():
    first = {"tokens": 30.0, "kl": 6.0, "mismatch_kl": 1.0, "fresh_tokens": 15.0, "loss": 0.25, **SAME}
    second = {"tokens": 10.0, "kl": 2.0, "mismatch_kl": 1.0, "fresh_tokens": 5.0, "loss": 0.5, **SAME}
    merged = merge_figures([RankFigures.of(first, busy_seconds=1.0), RankFigures.of(second, busy_seconds=3.0)])
    assert merged == {"kl": 0.2, "mismatch_kl": 0.1, "fresh": 0.5, "loss": 0.75, "learner_busy_s": 2.0, **SAME}


def test_a_rank_without_tokens_adds_nothing():
    busy = RankFigures.of({"tokens": 10.0, "kl": 5.0, "loss": 0.5, **SAME}, busy_seconds=1.0)
    idle = RankFigures.of({"loss": 0.0, **SAME}, busy_seconds=0.0)
    merged = merge_figures([idle, busy])
    assert merged == {"kl": 0.5, "loss": 0.5, "fresh": 0.0, "learner_busy_s": 0.5, **SAME}
    assert "mismatch_kl" not in merged  # no token was sampled from these weights, so there is nothing to compare


def test_a_gradient_norm_that_is_not_known_is_left_out():
    merged = merge_figures([RankFigures.of({"tokens": 1.0, "loss": 0.5, "learning_rate": 0.1}, busy_seconds=0.0)])
    assert "grad_norm" not in merged


class Rank:
    """A rank whose calls answer what they were."""

    def __init__(self, rank: int, calls: list[Any]) -> None:
        self._rank, self._calls = rank, calls

    def __getattr__(self, name: str) -> Any:
        return Call(self._rank, name, self._calls)


class Call:
    def __init__(self, rank: int, name: str, calls: list[Any]) -> None:
        self._rank, self._name, self._calls, self._returns = rank, name, calls, 1

    def options(self, num_returns: int) -> Any:
        self._returns = num_returns
        return self

    def remote(self, version: int, *arguments: Any) -> Any:
        self._calls.append((self._rank, self._name, version, *arguments))
        answers = [(self._rank, number) for number in range(self._returns)]
        return answers if self._returns > 1 else answers[0]


@pytest.mark.parametrize(("stage", "beside"), [(3, False), (3, True), (2, False)])
def test_each_rank_publishes_its_share_and_those_without_one_gather(stage: int, beside: bool) -> None:
    calls: list[Any] = []
    settings = ("learner.workers=3", "learner.cpus=0", f"learner.zero_stage={stage}", "rapo.max_staleness=1")

    def launch(*arguments: Any, options: object) -> Any:
        return Rank(arguments[0], calls)

    group = LearnerGroup(load_config(None, settings), launch)
    group.ranks = [RankInfo(rank, "n", 0, chunks) for rank, chunks in enumerate((2, 1, 0))]
    weights: Any = group.publish(5, beside=beside)
    method = "publish" if beside else "publish_now"
    gather = [(2, "gather", 5)] if stage == 3 and not beside else []
    assert calls == [(0, method, 5), (1, method, 5), *gather]
    assert weights.chunks == ((0, 0), (0, 1), (1, 0))
    assert weights.manifests == ((0, 2), (1, 1))


@pytest.mark.parametrize("beside", [False, True])
def test_each_rank_with_a_share_sends_it_and_the_others_gather(beside: bool) -> None:
    calls: list[Any] = []
    settings = ("learner.workers=3", "learner.cpus=0", "learner.zero_stage=3", "rapo.max_staleness=1")

    def launch(*arguments: Any, options: object) -> Any:
        return Rank(arguments[0], calls)

    group = LearnerGroup(load_config(None, settings), launch)
    stores = (("127.0.0.1", 5), None, None)
    group.ranks = [
        RankInfo(rank, "n", 0, chunks, weight_store=store)
        for rank, (chunks, store) in enumerate(zip((2, 0, 1), stores, strict=True))
    ]
    weights = group.publish(7, Receivers(4, (8, 9)), beside=beside)
    meeting = Meeting("127.0.0.1", 5, epoch=4, size=4, senders=2)
    assert weights.broadcast == Broadcast(meeting, Receivers(4, (8, 9)))
    sends = {rank: arguments for rank, name, *arguments in calls if name == ("send" if beside else "send_now")}
    assert sends == {0: [7, meeting, 0], 2: [7, meeting, 1]}
    gathers = [rank for rank, name, *_ in calls if name == "gather"]
    assert gathers == ([] if beside else [1, 1]), "once for the broadcast, once for the object store"
