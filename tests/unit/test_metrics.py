"""Metrics: against SciPy, in their undefined cases, and with the bootstrap."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

import rapo.resampling
from rapo.errors import DataError
from rapo.metrics import evaluate_predictions, krcc, plcc, srcc, why_undefined
from rapo.records import Prediction


def predict(scores, targets, reasons=None):
    reasons = reasons or [None] * len(scores)
    return [
        Prediction(f"d/{index}", "d", target, score, "", reason)
        for index, (score, target, reason) in enumerate(zip(scores, targets, reasons, strict=True))
    ]


def sample(n, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.uniform(0, 1, n)
    return (y + rng.normal(0, 0.2, n)).clip(0, 1).round(2).tolist(), y.round(2).tolist()


def test_equal_scipy():
    x, y = sample(300)
    found = evaluate_predictions(predict(x, y), bootstrap=0, seed=0)
    assert found["srcc"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found["plcc"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert found["krcc"] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found["mae"] == pytest.approx(np.abs(np.subtract(x, y)).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(np.subtract(x, y)).mean()))
    assert found["predicted_sd"] == pytest.approx(np.std(x))
    assert found["target_sd"] == pytest.approx(np.std(y))
    assert found["srcc_interval"] is None


@pytest.mark.parametrize("seed", range(20))
def test_equal_scipy_with_ties_and_nan(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 400))
    x, y = rng.integers(0, 12, n) / 7 + 1e3 * (seed % 2), rng.normal(size=n).round(1)
    x[rng.random(n) < 0.1], y[rng.random(n) < 0.1] = np.nan, np.nan
    x[:2], y[:2] = (0.3, 0.9), (0.2, 0.1)
    known = ~(np.isnan(x) | np.isnan(y))
    assert srcc(x, y) == pytest.approx(stats.spearmanr(x, y, nan_policy="omit").statistic, abs=1e-12)
    assert krcc(x, y) == pytest.approx(stats.kendalltau(x, y, nan_policy="omit").statistic, abs=1e-12)
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x[known], y[known]).statistic, abs=1e-12)


def test_an_undefined_correlation_has_a_reason():
    several = np.array([0.1, 0.2, 0.3])
    same = np.full(3, 0.1 + 0.2)
    same[1] = 0.3
    assert why_undefined(several, several) is None
    assert why_undefined(several[:0], several[:0]) == "no images with a score, where two are needed"
    assert why_undefined(several[:1], several[:1]) == "1 image with a score, where two are needed"
    assert why_undefined(same, several) == "all predictions are equal"
    assert why_undefined(several, same) == "all human scores are equal"
    assert why_undefined(np.array([0.1, np.inf, 0.2]), several) == "a score is infinite"
    for metric in (plcc, srcc, krcc):
        assert metric(same, several) is None
        assert metric([np.nan] * 3, several) is None
        assert metric([0.1, np.nan, np.nan], several) is None


def test_resolution_is_spread_and_number_of_scores():
    found = evaluate_predictions(predict([0.4, 0.401, 0.404, 0.5, 0.6], [0.1, 0.3, 0.5, 0.7, 0.9]), bootstrap=0)
    assert found["distinct_scores"] == 3
    assert found["spread"] == pytest.approx(np.std([0.4, 0.401, 0.404, 0.5, 0.6]) / np.std([0.1, 0.3, 0.5, 0.7, 0.9]))
    constant = evaluate_predictions(predict([0.4, 0.5], [0.5, 0.5]), bootstrap=0)
    assert (constant["spread"], constant["distinct_scores"]) == (None, 2)
    empty = evaluate_predictions(predict([None], [0.5]), bootstrap=0)
    assert (empty["spread"], empty["distinct_scores"]) == (None, 0)


def test_bias_has_the_sign_of_overrating():
    assert evaluate_predictions(predict([0.6, 0.7, 0.8], [0.5, 0.6, 0.7]), bootstrap=0, seed=0)[
        "bias"
    ] == pytest.approx(0.1)


def test_invalid_predictions_are_counted_and_left_out():
    x, y = sample(20)
    whole = evaluate_predictions(predict(x, y), bootstrap=0, seed=0)
    mixed = predict([*x, None, None, None], [*y, 0.1, 0.9, 0.5], [None] * 20 + ["truncated", "no_answer", "truncated"])
    found = evaluate_predictions(mixed, bootstrap=0, seed=0)
    assert found["invalid"] == {"no_answer": 1, "truncated": 2}
    assert (found["n"], found["n_valid"]) == (23, 20)
    assert found["parse_rate"] == pytest.approx(20 / 23)
    for name in ("srcc", "plcc", "krcc", "mae", "bias"):
        assert found[name] == whole[name]


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        ([], []),
        ([None, None, None], [0.1, 0.2, 0.3]),
        ([0.1], [0.1]),
        ([0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]),
        ([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]),
        ([0.5, float("nan"), float("nan")], [0.1, 0.2, 0.3]),
        ([0.3, 0.1 + 0.2, 0.3], [0.1, 0.2, 0.3]),
    ],
)
def test_undefined_is_none_and_always_json(scores, targets):
    found = evaluate_predictions(predict(scores, targets), bootstrap=50, seed=0)
    json.dumps(found, allow_nan=False)
    for name in ("srcc", "plcc", "krcc", "srcc_interval", "plcc_interval"):
        assert found[name] is None


def test_a_prediction_without_a_target_is_an_error():
    for target in (None, float("nan")):
        with pytest.raises(DataError, match="d/1"):
            evaluate_predictions(predict([0.1, 0.2], [0.3, target]), bootstrap=0, seed=0)


def test_intervals_are_seeded_and_cover_the_value():
    x, y = sample(200)
    one, same, other = (evaluate_predictions(predict(x, y), bootstrap=400, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one["srcc_interval"] != other["srcc_interval"]
    for value, interval in ((one["srcc"], one["srcc_interval"]), (one["plcc"], one["plcc_interval"])):
        assert value is not None
        assert interval is not None
        low, high = interval
        assert low < value < high
        assert 0.01 < high - low < 0.3


def test_intervals_equal_resampling_one_by_one(monkeypatch):
    x, y = sample(40, seed=3)
    rng = np.random.default_rng(7)
    resamples = [rng.integers(0, 40, (1, 40))[0] for _ in range(200)]
    pick = [(np.take(x, rows), np.take(y, rows)) for rows in resamples]
    srccs = [stats.spearmanr(a, b).statistic for a, b in pick]
    plccs = [stats.pearsonr(a, b).statistic for a, b in pick]
    monkeypatch.setattr(rapo.resampling, "_BLOCK_ELEMENTS", 1)
    found = evaluate_predictions(predict(x, y), bootstrap=200, seed=7)
    assert found["srcc_interval"] is not None
    assert found["plcc_interval"] is not None
    np.testing.assert_allclose(found["srcc_interval"], np.quantile(srccs, (0.025, 0.975)), atol=1e-12)
    np.testing.assert_allclose(found["plcc_interval"], np.quantile(plccs, (0.025, 0.975)), atol=1e-12)


def test_bounds_are_kept_for_perfect_predictions():
    x = np.linspace(0, 1, 7) / 3
    found = evaluate_predictions(predict(x.tolist(), x.tolist()), bootstrap=100, seed=0)
    assert found["srcc"] == found["krcc"] == 1.0
    assert found["plcc"] is not None
    assert found["plcc_interval"] is not None
    assert found["plcc"] <= 1.0
    assert max(found["plcc_interval"]) <= 1.0
    assert (plcc(x, -x), srcc(x, -x), krcc(x, -x)) == (-1.0, -1.0, -1.0)
