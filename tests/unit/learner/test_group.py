"""The parts of the learner group that need no Ray."""

from actors.messages import RankFigures
from cluster.learner.group import merge_figures

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
