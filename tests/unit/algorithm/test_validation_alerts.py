"""ValidationAlerts: explanations that lose their ground, scores that gather, and the noise of an
SRCC."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from rapo.algorithm.alert_kinds import Alert
from rapo.algorithm.alerts import TrainingAlerts
from rapo.algorithm.validation_alerts import srcc_standard_error
from rapo.config import WatchConfig

SEEDS = range(200)


def validate(watch: TrainingAlerts, key: str, values: Sequence[object], every: int = 20, **rest: object) -> list[Alert]:
    results = [{"n": 256, "spread": 1.0, "distinct_scores": 60, **rest, key: value} for value in values]
    return [f for i, result in enumerate(results) for f in watch.validation(i * every, result)]


def kinds(found: Sequence[Alert]) -> list[tuple[int, str]]:
    return [(alert.step, alert.kind) for alert in found]


def test_grounding_that_falls_is_found_at_the_second_low_validation() -> None:
    """From the default run: .555 before RAPO, .338 after it."""
    (found,) = validate(TrainingAlerts(), "grounding", [0.555, 0.51, 0.47, 0.40, 0.36, 0.338])
    assert kinds([found]) == [(80, "grounding_fell")]
    assert found.values == {"grounding": 0.36, "start": 0.555, "allowed": pytest.approx(0.1, abs=0.01)}
    assert "is 0.360, against 0.555 before RAPO" in found.text
    assert "rapo.loss.kl_beta" in found.text
    assert not found.fatal


def test_grounding_is_compared_with_the_start_once_until_it_has_recovered() -> None:
    watch = TrainingAlerts()
    curve = [0.5, 0.3, 0.5, 0.3, 0.3, 0.3, 0.41, 0.3, 0.3, 0.5, 0.3, 0.3]
    assert kinds(validate(watch, "grounding", curve)) == [(80, "grounding_fell"), (220, "grounding_fell")]


def test_a_fall_within_noise_or_within_the_set_amount_is_none() -> None:
    curve = [0.5, 0.38, 0.38, 0.38]
    assert validate(TrainingAlerts(), "grounding", curve, n=64) == []
    assert kinds(validate(TrainingAlerts(), "grounding", curve, n=1024)) == [(40, "grounding_fell")]
    assert validate(TrainingAlerts(WatchConfig(grounding_fall=0.15)), "grounding", curve, n=1024) == []
    assert validate(TrainingAlerts(), "grounding", [0.05, 0.0, 0.0, -0.04]) == []


def test_grounding_is_judged_where_the_srcc_is_undefined() -> None:
    assert kinds(validate(TrainingAlerts(), "grounding", [0.5, 0.1, 0.1], srcc=None)) == [(40, "grounding_fell")]
    assert validate(TrainingAlerts(), "grounding", [0.5, None, math.nan, None, 2.0]) == []
    assert validate(TrainingAlerts(), "grounding", [None, 0.2, 0.2], n=None) == []


def test_a_spread_below_its_bound_is_a_collapse() -> None:
    (found,) = validate(TrainingAlerts(), "spread", [1.23, 0.9, 0.45, 0.6, 0.45, 0.45, 0.55, 0.45, 0.45])
    assert kinds([found]) == [(100, "resolution_collapse")]
    assert found.values == {"spread": 0.45, "spread_start": 1.23, "scores": 60, "scores_start": 60}
    again = validate(TrainingAlerts(), "spread", [1.23, 0.4, 0.4, 0.7, 0.4, 0.4])
    assert [alert.step for alert in again] == [40, 100]


def test_a_small_spread_from_the_start_is_no_collapse() -> None:
    """Calibrated scores that correlate by .4 have a spread of .4."""
    assert validate(TrainingAlerts(), "spread", [0.4, 0.38, 0.35, 0.4]) == []
    assert kinds(validate(TrainingAlerts(), "spread", [0.4, 0.15, 0.15])) == [(40, "resolution_collapse")]


def test_few_different_scores_are_a_collapse() -> None:
    """From the default run: 62 different scores before RAPO, 12 after it."""
    (found,) = validate(TrainingAlerts(), "distinct_scores", [62, 40, 26, 20, 12])
    assert kinds([found]) == [(80, "resolution_collapse")]
    assert "20 different values" not in found.text
    assert "12 different values (at least 25; there were 62)" in found.text
    assert validate(TrainingAlerts(WatchConfig(scores_fraction=0.1)), "distinct_scores", [62, 12, 12]) == []
    assert validate(TrainingAlerts(), "distinct_scores", [62, None, None, "few"]) == []


def test_a_resumed_run_goes_on_from_the_first_validation() -> None:
    rows = [{"step": step, "validation": {"n": 256, "grounding": g, "spread": s, "distinct_scores": 60}}
            for step, (g, s) in enumerate([(0.55, 1.2), (0.3, 0.4), (0.3, 0.4)])]  # fmt: skip
    expected = [(2, "grounding_fell"), (2, "resolution_collapse")]
    for cut in range(3):
        watch = TrainingAlerts()
        assert kinds(watch.replay(rows[:cut]) + watch.replay(rows[cut:])) == expected


@pytest.mark.parametrize("n", [64, 256])
@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_the_standard_error_equals_that_of_simulated_samples(rho: float, n: int) -> None:
    # Normal pairs whose Spearman correlation is rho.
    r = 2 * math.sin(math.pi / 6 * rho)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, n))
    y = r * x + math.sqrt(1 - r * r) * rng.normal(size=(1500, n))
    seen = np.std([stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    assert srcc_standard_error(rho, n) == pytest.approx(seen, rel=0.08)


@pytest.mark.parametrize(("kept", "rate"), [(0.0, 0.1), (0.5, 0.01)])
def test_srcc_of_realistic_noise_raises_few_false_alarms(kept: float, rate: float) -> None:
    """50 validations on the same 256 images by a model that stays as good as it is, with an SRCC
    about .8.

    `kept` is the share of the errors' variance that one validation has in common with the next:
    none would be a model that forgets everything in between.
    """
    r = 2 * math.sin(math.pi / 6 * 0.8)
    alarms = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        target, lasting = rng.normal(size=(2, 256))
        errors = math.sqrt(kept) * lasting + math.sqrt(1 - kept) * rng.normal(size=(50, 256))
        scores = r * target + math.sqrt(1 - r * r) * errors
        ranks = np.argsort(np.argsort(np.vstack([target, scores]), axis=1), axis=1)
        alarms += bool(validate(TrainingAlerts(), "srcc", np.corrcoef(ranks)[0, 1:].tolist()))
    assert alarms <= rate * len(SEEDS)
