"""The parts of the learner group that need no Ray."""

from cluster.learner.group import merge_metrics


def test_sums_over_ranks_become_means_per_token():
    same = {"grad_norm": 2.5, "learning_rate": 1e-4}
    merged = merge_metrics(
        [
            {
                "tokens": 30.0,
                "kl": 6.0,
                "mismatch_kl": 1.0,
                "fresh_tokens": 15.0,
                "loss": 0.25,
                "busy_seconds": 1.0,
                **same,
            },
            {
                "tokens": 10.0,
                "kl": 2.0,
                "mismatch_kl": 1.0,
                "fresh_tokens": 5.0,
                "loss": 0.5,
                "busy_seconds": 3.0,
                **same,
            },
        ]
    )
    assert merged == {"kl": 0.2, "mismatch_kl": 0.1, "fresh": 0.5, "loss": 0.75, "learner_busy_s": 2.0, **same}


def test_a_rank_without_tokens_adds_nothing():
    busy = {"tokens": 10.0, "kl": 5.0, "loss": 0.5, "grad_norm": 1.0, "learning_rate": 0.1}
    idle = {"loss": 0.0, "grad_norm": 1.0, "learning_rate": 0.1}
    merged = merge_metrics([idle, busy])
    assert merged == {
        "kl": 0.5,
        "loss": 0.5,
        "grad_norm": 1.0,
        "learning_rate": 0.1,
        "fresh": 0.0,
        "learner_busy_s": 0.0,
    }
    assert "mismatch_kl" not in merged  # no token was drawn from these weights, so there is nothing to compare
