"""Preference: probabilities against the normal distribution and against the reward."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapo.algorithm.preference import order, preference, preference_matrix
from rapo.algorithm.reward import rapo_rewards
from rapo.config import RewardSettings

UNIT = st.floats(0, 1)
SD = st.floats(0, 0.5)


@given(UNIT, UNIT, SD, SD, st.sampled_from([1e-6, 1e-3, 0.1]))
def test_it_is_the_normal_distribution(a: float, b: float, sd_a: float, sd_b: float, gamma: float) -> None:
    spread = math.sqrt(sd_a**2 + sd_b**2 + gamma)
    p = preference(a, b, sd_a**2, sd_b**2, gamma)
    assert p == pytest.approx(NormalDist(0, spread).cdf(a - b), abs=1e-12)
    assert p + preference(b, a, sd_b**2, sd_a**2, gamma) == pytest.approx(1, abs=1e-12)


def test_known_values() -> None:
    assert preference(0.6, 0.5, 0.006, 0.004 - 1e-6, 1e-6) == pytest.approx(0.8413447460685429)  # one sd apart
    assert preference(0.0, 1.0, 0.001, 0.001, 1e-6) > 0  # far in the tail, not rounded to nothing


def test_it_equals_the_rewards_own_comparison() -> None:
    """With one completion per image the reward's mean is the score itself, and its variance is
    0."""
    scores, gamma = [0.62, 0.61], 4e-3
    p = preference_matrix(scores, [0.0, 0.0], gamma)[1]
    settings = RewardSettings(gamma=gamma)
    rewards = rapo_rewards(np.array([[s] for s in scores]), [0.9, 0.1], settings=settings)
    assert rewards.relative[0, 0] == pytest.approx(math.sqrt(p), abs=1e-12)


def test_the_matrix_is_row_by_row_with_nan_where_there_is_no_score() -> None:
    matrix = np.array(preference_matrix([0.9, math.nan, 0.1], [0.01, 0.0, 0.04], 1e-6)).reshape(3, 3)
    assert np.isnan(matrix[1]).all()
    assert np.isnan(matrix[:, 1]).all()
    assert matrix[0, 2] == pytest.approx(NormalDist().cdf(0.8 / math.sqrt(0.05 + 1e-6)))
    assert matrix[0, 2] + matrix[2, 0] == pytest.approx(1)
    assert matrix[0, 0] == matrix[2, 2] == 0.5


@pytest.mark.parametrize(("variances", "gamma"), [([0.0], 1e-6), ([0.0, -1.0], 1e-6), ([0.0, 0.0], 0.0)])
def test_impossible_arguments_are_refused(variances: list[float], gamma: float) -> None:
    with pytest.raises(ValueError, match=r"variance|gamma"):
        preference_matrix([0.1, 0.2], variances, gamma)


def test_order_is_stable_with_the_unscored_last() -> None:
    assert order([0.2, math.nan, 0.9, 0.2, math.nan, 0.0]) == [2, 0, 3, 5, 1, 4]
