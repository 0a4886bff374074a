"""Selection: equal numbers per score band, and the shortfall of scarce bands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapo.aescot.select import balanced_sample
from rapo.errors import DataError

BANDS = (0.0, 0.4, 0.7, 1.0)


def choose(scores, count, seed=0, uids=None):
    uids = uids or [f"u{i:04d}" for i in range(len(scores))]
    return balanced_sample(scores, uids, BANDS, count, np.random.default_rng(seed))


def per_band(scores, chosen):
    band = np.searchsorted(BANDS[1:-1], [scores[i] for i in chosen], side="right")
    return np.bincount(band, minlength=3).tolist()


def test_bands_are_equal_where_the_data_allows():
    scores = np.random.default_rng(0).uniform(0, 1, 600).tolist()
    chosen, shortfall = choose(scores, 90)
    assert len(set(chosen)) == 90
    assert per_band(scores, chosen) == [30, 30, 30]
    assert shortfall == {"0-0.4": 0, "0.4-0.7": 0, "0.7-1": 0}


def test_scarce_band_is_filled_from_the_others_and_reported():
    scores = [0.1] * 100 + [0.5] * 100 + [0.9] * 4
    chosen, shortfall = choose(scores, 60)
    assert per_band(scores, chosen) == [28, 28, 4]
    assert shortfall == {"0-0.4": 0, "0.4-0.7": 0, "0.7-1": 16}


def test_two_scarce_bands():
    scores = [0.1] * 3 + [0.5] * 100 + [0.9] * 10
    chosen, shortfall = choose(scores, 60)
    assert per_band(scores, chosen) == [3, 47, 10]
    assert shortfall == {"0-0.4": 17, "0.4-0.7": 0, "0.7-1": 10}


def test_scores_at_and_beyond_the_bounds():
    scores = [-0.2, 0.0, 0.4, 0.69, 0.7, 1.0, 1.3]
    chosen, shortfall = choose(scores, 7)
    assert sorted(chosen) == list(range(7))
    assert shortfall == {"0-0.4": 1, "0.4-0.7": 0, "0.7-1": 0}


def test_the_remainder_goes_to_the_lower_bands():
    scores = [0.1] * 9 + [0.5] * 9 + [0.9] * 9
    assert per_band(scores, choose(scores, 11)[0]) == [4, 4, 3]


def test_choice_depends_on_uids_and_seed_but_not_on_row_order():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0, 1, 200)
    uids = [f"u{i}" for i in range(200)]
    order = rng.permutation(200)
    straight, _ = choose(scores.tolist(), 60, uids=uids)
    shuffled, _ = choose(scores[order].tolist(), 60, uids=[uids[i] for i in order])
    assert [uids[i] for i in straight] == [uids[order[i]] for i in shuffled]
    assert choose(scores.tolist(), 60, seed=1, uids=uids)[0] != straight


@given(st.lists(st.floats(-0.5, 1.5), max_size=60), st.integers(0, 80))
def test_gives_the_count_or_everything(scores, count):
    chosen, shortfall = choose(scores, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(scores))
    assert all(0 <= missing <= count for missing in shortfall.values())
    if sum(shortfall.values()) == 0:
        taken = per_band(scores, chosen)
        assert max(taken) - min(taken) <= 1


@pytest.mark.parametrize(
    ("scores", "uids", "bands", "count", "words"),
    [
        ([0.1], ["a", "b"], BANDS, 1, "1 scores for 2 uids"),
        ([0.1, 0.2], ["a", "a"], BANDS, 1, "more than once"),
        ([float("nan")], ["lost"], BANDS, 1, "image lost"),
        ([0.1], ["a"], (0.5, 0.4), 1, "ascending"),
        ([0.1], ["a"], (0.5,), 1, "ascending"),
        ([0.1], ["a"], BANDS, -1, "-1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(scores, uids, bands, count, words):
    with pytest.raises(DataError, match=words):
        balanced_sample(scores, uids, bands, count, np.random.default_rng(0))
