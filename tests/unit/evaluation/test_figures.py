"""Figures: their values, why some are undefined, and their intervals."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from eval_builders import noisy, predicted
from scipy import stats

import rapo.resampling
from rapo.evaluation.figures import CORRELATIONS, RESAMPLED, Bootstrap, set_figures
from rapo.resampling import interval


def figures(one, resamples=0, seed=0, width=9.0):
    return set_figures(one, Bootstrap("d", resamples, seed).resampled(one, one.valid), width)["figures"]


def test_figures_are_those_of_the_images_with_a_score():
    scores, targets = noisy(60, 0.2)
    x, y = np.array(scores, float), np.array(targets)
    found = set_figures(predicted([*scores, None, None], [*targets, 0.1, 0.9]), {}, 9.0)
    assert (found["n"], found["n_valid"], found["invalid"]) == (62, 60, {"no_answer": 2})
    values = {name: one["value"] for name, one in found["figures"].items()}
    assert values == pytest.approx(
        {
            "plcc": stats.pearsonr(x, y).statistic,
            "srcc": stats.spearmanr(x, y).statistic,
            "krcc": stats.kendalltau(x, y).statistic,
            "mae": np.abs(x - y).mean(),
            "rmse": np.sqrt(np.square(x - y).mean()),
            "bias": (x - y).mean(),
            "spread": x.std() / y.std(),
            "native_mae": 9 * np.abs(x - y).mean(),
            "parse_rate": 60 / 62,
        },
        abs=1e-12,
    )


@pytest.mark.parametrize(
    ("scores", "targets", "reason"),
    [
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], "all predictions are equal"),
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], "all human scores are equal"),
        ([0.1, None, None], [0.1, 0.2, 0.3], "1 image with a score, where two are needed"),
        ([None, float("nan"), None], [0.1, 0.2, 0.3], "no images with a score, where two are needed"),
    ],
)
def test_an_undefined_figure_says_why_and_is_never_zero(scores, targets, reason):
    found = figures(predicted(scores, targets), resamples=20)
    for name in CORRELATIONS:
        assert found[name] == {"value": None, "interval": None, "undefined": reason}
    no_score = reason.startswith("no images")
    assert (found["mae"]["value"] is None) == no_score
    assert (found["mae"]["undefined"] is None) == (not no_score)


def test_errors_need_a_known_scale_and_correlations_do_not():
    found = figures(predicted([10.0, 20.0, 40.0], [0.1, 0.3, 0.2], unscaled="no scale"))
    assert found["srcc"]["value"] == pytest.approx(0.5)
    for name in ("mae", "native_mae", "rmse", "bias", "spread"):
        assert found[name] == {"value": None, "interval": None, "undefined": "no scale"}


def test_intervals_equal_resampling_one_by_one(monkeypatch):
    scores, targets = noisy(40, 0.2)
    scores[3] = scores[17] = None
    x, y = np.array(scores, float), np.array(targets)
    rng = np.random.default_rng([5, zlib.crc32(b"d")])
    found: dict[str, list[float]] = {name: [] for name in RESAMPLED}
    for _ in range(100):
        rows = rng.integers(0, 40, (1, 40))[0]
        a, b = x[rows][np.isfinite(x[rows])], y[rows][np.isfinite(x[rows])]
        found["plcc"].append(stats.pearsonr(a, b).statistic)
        found["srcc"].append(stats.spearmanr(a, b).statistic)
        found["mae"].append(np.abs(a - b).mean())
        found["rmse"].append(np.sqrt(np.square(a - b).mean()))
        found["bias"].append((a - b).mean())
    monkeypatch.setattr(rapo.resampling, "_BLOCK_ELEMENTS", 1)
    one = predicted(scores, targets)
    resampled = Bootstrap("d", 100, 5).resampled(one, one.valid)
    for name, values in found.items():
        np.testing.assert_allclose(resampled[name], values, atol=1e-10)
        bounds = set_figures(one, resampled, 9.0)["figures"][name]["interval"]
        assert bounds == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=1e-10)


def test_an_interval_of_nothing_finite_is_none():
    assert interval(np.array([])) is None
    assert interval(np.array([np.nan, np.nan])) is None
    assert interval(np.array([np.nan, 1.0, 3.0])) == pytest.approx([1.05, 2.95])
