"""Conformal intervals: their coverage by simulation, ranks, bins, ties and few points."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rapo.algorithm.conformal import LEAST_IN_BIN, Calibration, calibrate, images_needed
from rapo.algorithm.coverage import interval_coverage
from rapo.arrays import Floats

#: Human scores for predicted scores, with noise that ends at 0 and 1.
Noise = Callable[[np.random.Generator, Floats], Floats]

NOISES: dict[str, Noise] = {
    "homoscedastic": lambda rng, x: x + 0.08 * rng.normal(size=x.size),
    "heteroscedastic": lambda rng, x: x + (0.02 + 0.2 * x) * rng.normal(size=x.size),
    "skewed": lambda rng, x: x + 0.1 * (rng.exponential(size=x.size) - 1.0),
    "biased": lambda rng, x: 0.3 + 0.4 * x + 0.05 * rng.normal(size=x.size),
}


def simulated(rng: np.random.Generator, noise: Noise, n: int, decimals: int | None = None) -> tuple[Floats, Floats]:
    scores = rng.uniform(0.1, 0.9, n)
    if decimals is not None:
        scores = np.round(scores, decimals)
    return scores, np.clip(noise(rng, scores), 0.0, 1.0)


def covered(calibration: Calibration | None, scores: Floats, targets: Floats) -> float:
    assert calibration is not None
    low, high = np.array([calibration.interval(score) for score in scores.tolist()]).T
    return float(((low <= targets) & (targets <= high)).mean())


def mean_coverage(noise: Noise, n: int, coverage: float = 0.9, decimals: int | None = None) -> float:
    """Over 600 calibrations with `n` images, each on 60 new ones; its standard error is about
    .0025."""
    rng = np.random.default_rng(0)
    return float(
        np.mean(
            [
                covered(calibrate(*known, "expected", coverage), *new)
                for known, new in (
                    (simulated(rng, noise, n, decimals), simulated(rng, noise, 60, decimals)) for _ in range(600)
                )
            ]
        )
    )


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("n", "exact"), [(19, 18 / 20), (60, 55 / 61), (256, 59 / 65)])
def test_a_new_score_lies_in_its_interval_as_often_as_stated(noise: str, n: int, exact: float) -> None:
    # A bin of n images with the rank k leaves out 2 k / (n + 1); 256 images make bins of 64.
    assert mean_coverage(NOISES[noise], n) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(("coverage", "least"), [(0.5, 3), (0.8, 9), (0.9, 19), (0.95, 39), (0.99, 199)])
def test_other_coverages_and_the_fewest_images(coverage: float, least: int) -> None:
    assert images_needed(coverage) == least
    rng = np.random.default_rng(1)
    scores, targets = simulated(rng, NOISES["homoscedastic"], least)
    made = calibrate(scores, targets, "expected", coverage)
    assert made is not None
    assert (made.coverage, made.readout, made.n, len(made.bins)) == (coverage, "expected", least, 1)
    assert calibrate(scores[:-1], targets[:-1], "expected", coverage) is None
    assert mean_coverage(NOISES["skewed"], 300, coverage) == pytest.approx(coverage, abs=0.02)


def test_many_equal_scores_share_a_bin_and_keep_the_coverage() -> None:
    assert 0.895 <= mean_coverage(NOISES["heteroscedastic"], 256, decimals=1) <= 0.95
    made = calibrate(np.full(500, 0.4), np.linspace(0.3, 0.6, 500), "greedy")
    assert made is not None
    assert [one.n for one in made.bins] == [500]
    scores = np.repeat([0.2, 0.5, 0.7, 0.8], [90, 80, 30, 40])
    made = calibrate(scores, scores, "greedy")
    assert made is not None
    assert [(one.start, one.n) for one in made.bins] == [(0.0, 90), (0.35, 80), (0.6, 70)]
    # What is above 0.5 is too little for a bin of its own.
    made = calibrate(scores[:-20], scores[:-20], "greedy")
    assert made is not None
    assert [(one.start, one.n) for one in made.bins] == [(0.0, 90), (0.35, 130)]


def test_equal_residuals_make_an_interval_without_width() -> None:
    scores = np.linspace(0.1, 0.8, 40)
    made = calibrate(scores, scores + 0.1, "expected")
    assert made is not None
    assert made.interval(0.5) == (pytest.approx(0.6), pytest.approx(0.6))


@pytest.mark.parametrize(("n", "rank"), [(19, 1), (38, 1), (39, 2), (58, 2), (59, 3)])
def test_the_ends_are_the_ranks_of_a_finite_sample(n: int, rank: int) -> None:
    residuals = np.arange(1, n + 1) / 100
    scores = np.full(n, 0.2)
    made = calibrate(scores, scores + np.random.default_rng(0).permutation(residuals), "expected")
    assert made is not None
    ends = (made.bins[0].low, made.bins[0].high)
    assert ends == (pytest.approx(rank / 100), pytest.approx((n + 1 - rank) / 100))


def test_bins_follow_the_noise_of_their_scores() -> None:
    rng = np.random.default_rng(0)
    scores, targets = simulated(rng, NOISES["heteroscedastic"], 1000)
    made = calibrate(scores, targets, "expected")
    assert made is not None
    assert len(made.bins) == 1000 // LEAST_IN_BIN
    assert sum(one.n for one in made.bins) == 1000
    assert min(one.n for one in made.bins) >= LEAST_IN_BIN
    narrow, wide = (high - low for low, high in (made.interval(0.15), made.interval(0.6)))
    assert wide > 2 * narrow
    new, truth = simulated(rng, NOISES["heteroscedastic"], 20_000)
    for part in (new < 0.4, new >= 0.7):
        assert covered(made, new[part], truth[part]) == pytest.approx(0.9, abs=0.04)


def test_the_interval_is_asymmetric_where_the_noise_is() -> None:
    made = calibrate(*simulated(np.random.default_rng(0), NOISES["skewed"], 400), "expected")
    assert made is not None
    low, high = (np.mean(ends) for ends in zip(*((one.low, one.high) for one in made.bins), strict=True))
    assert high > -1.5 * low > 0


def test_the_interval_stays_within_0_and_1() -> None:
    made = calibrate(np.tile([0.0, 1.0], 100), np.tile([1.0, 0.0], 100), "expected")
    assert made is not None
    for score in (0.0, 0.3, 1.0):
        low, high = made.interval(score)
        assert 0.0 <= low <= high <= 1.0


@pytest.mark.parametrize(
    ("scores", "targets", "coverage"),
    [
        ([0.1] * 30, [0.1] * 29, 0.9),
        ([math.nan] * 30, [0.1] * 30, 0.9),
        ([0.1] * 30, [0.1] * 30, 1.0),
        ([[0.1]], [[0.1]], 0.9),
    ],
)
def test_bad_input_is_refused(scores: list[float], targets: list[float], coverage: float) -> None:
    with pytest.raises(ValueError, match=r"shape|coverage"):
        calibrate(scores, targets, "expected", coverage)


def test_coverage_counts_and_has_its_own_uncertainty() -> None:
    scores = np.linspace(0.3, 0.5, 39)
    made = calibrate(scores, scores + np.linspace(-0.2, 0.2, 39), "expected")
    assert made is not None
    low, high = made.interval(0.4)
    found = interval_coverage(made, np.full(10, 0.4), [low, high, *np.linspace(low, high, 7), high + 1e-6])
    assert found is not None
    assert (found["n"], found["inside"], found["measured"]) == (10, 9, 0.9)
    assert (found["stated"], found["readout"], found["calibration_n"]) == (0.9, "expected", 39)
    assert found["mean_width"] == pytest.approx(high - low)
    assert found["measured_interval"] == pytest.approx([0.555, 0.9975], abs=1e-3)  # from a table of the binomial
    assert interval_coverage(made, [], []) is None
