"""Plan: equal numbers per score band, rounds until each band has ended, and surplus critiques."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rapo.aescot.plan import Band, Round, make_bands, next_round, record_verdicts
from rapo.errors import DataError

BANDS = (0.0, 0.4, 0.7, 1.0)
Judge = Callable[[Round], NDArray[np.bool_]]


def bands(
    scores: Sequence[float], count: int, seed: int = 0, uids: Sequence[str] | None = None, refill: float = 0.0
) -> list[Band]:
    names = pa.array(uids or [f"u{i:04d}" for i in range(len(scores))], pa.string())
    return make_bands(np.array(scores, float), names, BANDS, count, seed, refill)


def ask_all(made: list[Band], judge: Judge, seed: int = 0) -> list[Round]:
    """All rounds until every band has ended."""
    rounds: list[Round] = []
    while len(asked := next_round(made, seed, len(rounds))):
        record_verdicts(made, asked, judge(asked))
        rounds.append(asked)
    return rounds


def choose(
    scores: Sequence[float], count: int, seed: int = 0, uids: Sequence[str] | None = None
) -> tuple[list[int], dict[str, int]]:
    """The rows of the first round, and what each band lacks of its equal share."""
    made = bands(scores, count, seed, uids)
    return next_round(made, 0, 0).records.tolist(), {band.name: max(0, band.fair - band.wanted) for band in made}


def per_band(scores: Sequence[float], chosen: list[int]) -> list[int]:
    band = np.searchsorted(BANDS[1:-1], [scores[i] for i in chosen], side="right")
    return np.bincount(band, minlength=3).tolist()


def half(asked: Round) -> NDArray[np.bool_]:
    """Keeps every second record, whichever round asks."""
    return asked.records % 2 == 0


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
    ("scores", "uids", "bounds", "count", "words"),
    [
        ([0.1], ["a", "b"], BANDS, 1, "1 scores for 2 uids"),
        ([0.1, 0.2], ["a", "a"], BANDS, 1, "more than once"),
        ([float("nan")], ["lost"], BANDS, 1, "image lost"),
        ([0.1], ["a"], (0.5, 0.4), 1, "ascending"),
        ([0.1], ["a"], (0.5,), 1, "ascending"),
        ([0.1], ["a"], BANDS, -1, "-1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(scores, uids, bounds, count, words):
    with pytest.raises(DataError, match=words):
        make_bands(np.array(scores), pa.array(uids), bounds, count, 0, 0.0)


def test_rejected_rows_are_replaced_until_every_band_is_full():
    made = bands(np.random.default_rng(2).uniform(0, 1, 3000).tolist(), 300, refill=5.0)
    rounds = ask_all(made, half)
    assert [(band.kept, band.end) for band in made] == [(100, "full")] * 3
    assert 1 < len(rounds) < 8
    asked = np.concatenate([one.records for one in rounds])
    assert len(set(asked.tolist())) == len(asked), "a row was asked twice"
    assert len(asked) < 720, "far more was asked than half the rows rejected explain"


def test_the_first_good_rows_of_a_queue_are_the_critiques_and_what_is_behind_is_surplus():
    made = bands([0.1] * 500, 100, refill=5.0)
    ask_all(made, half)
    low = made[0]
    good = np.flatnonzero(low.queue[: low.asked] % 2 == 0)
    assert low.good == len(good) >= low.kept == 100
    assert low.last == good[99]


@pytest.mark.parametrize(
    ("images", "refill", "asked", "kept", "end"),
    [
        (120, 5.0, 120, 60, "exhausted"),  # no image is left
        (90, 5.0, 90, 45, "exhausted"),
        (1000, 0.2, 120, 57, "limit"),
        (1000, 0.0, 100, 45, "limit"),
    ],
)
def test_a_band_that_is_not_full_says_why(images, refill, asked, kept, end):
    made = bands([0.1] * images, 100, refill=refill)
    ask_all(made, half)
    low = made[0]
    assert (low.asked, low.end) == (asked, end)
    assert low.kept == low.good == int((low.queue[:asked] % 2 == 0).sum())
    if end == "exhausted":
        assert low.kept == kept


def test_a_teacher_that_is_always_rejected_is_asked_no_more_than_the_refill_allows():
    made = bands([0.1, 0.5, 0.9] * 1000, 300, refill=1.0)
    ask_all(made, lambda asked: np.zeros(len(asked), bool))
    assert [(band.asked, band.kept, band.end) for band in made] == [(200, 0, "limit")] * 3


def test_verdicts_go_to_their_rows_whatever_the_order_of_the_round():
    made = bands(np.random.default_rng(3).uniform(0, 1, 400).tolist(), 90, refill=2.0)
    ask_all(made, half)
    for band in made:
        assert band.verdicts.tolist() == (band.queue[: band.asked] % 2 == 0).tolist()
