"""Comparison: means over sets and paired differences."""

from __future__ import annotations

import json

import numpy as np
import pytest
from eval_builders import facts, noisy, predicted
from scipy import stats

from rapo.evaluation.comparison import MEAN, Comparer
from rapo.evaluation.figures import Bootstrap


def compare(predictions, sets=None, bootstrap=200, seed=0):
    names = sets or {name for of_model in predictions.values() for name in of_model}
    return Comparer({name: facts(3) for name in sorted(names)}, predictions, bootstrap, seed).compare("expected")


def test_the_mean_counts_each_set_once():
    big, small = noisy(200, 0.1), noisy(20, 0.4)
    found = compare({"m": {"a": predicted(*big), "b": predicted(*small)}})["models"]["m"]
    each = [found["sets"][name]["figures"]["srcc"]["value"] for name in ("a", "b")]
    mean = found["mean"]["srcc"]
    assert mean["value"] == pytest.approx(np.mean(each))
    assert mean["interval"] is not None
    low, high = mean["interval"]
    assert low < mean["value"] < high


def test_the_mean_is_undefined_where_one_set_is():
    good, targets = noisy(20, 0.1)
    both = {"a": predicted(good, targets), "b": predicted([0.5] * 20, targets)}
    found = compare({"m": both, "less": {"a": both["a"]}})
    assert found["models"]["m"]["mean"]["srcc"] == {
        "value": None,
        "interval": None,
        "undefined": "b: all predictions are equal",
    }
    assert found["models"]["m"]["mean"]["mae"]["value"] is not None
    assert found["models"]["less"]["mean"]["srcc"]["undefined"] == "no predictions for b"
    json.dumps(found, allow_nan=False)


def test_differences_are_paired_on_the_images_that_both_have_scored():
    (one, targets), (other, _) = noisy(80, 0.05), noisy(80, 0.1, seed=0)
    other = [min(1.0, score + 0.1) for score in other if score is not None]
    one[0], other[1] = None, None
    a, b = predicted(one, targets), predicted(other, targets)
    (row,) = compare({"b": {"d": b}, "a": {"d": a}})["differences"]
    assert (row["a"], row["b"], row["set"], row["n"]) == ("a", "b", "d", 78)
    x, z, y = (np.array(values[2:], float) for values in (one, other, targets))
    expected = stats.spearmanr(x, y).statistic - stats.spearmanr(z, y).statistic
    assert row["figures"]["srcc"]["value"] == pytest.approx(expected, abs=1e-12)
    mae = row["figures"]["mae"]
    assert mae["value"] == pytest.approx(np.abs(x - y).mean() - np.abs(z - y).mean(), abs=1e-12)
    assert mae["interval"] is not None
    assert mae["interval"][1] < 0, "one model is plainly nearer"
    # Paired: narrower than the difference of two independent bootstraps would be.
    both = a.valid & b.valid
    parts = [Bootstrap("d", 200, 0).resampled(side, both)["srcc"] for side in (a, b)]
    apart = np.ptp(np.quantile(parts[0] - np.random.default_rng(0).permutation(parts[1]), (0.025, 0.975)))
    srcc = row["figures"]["srcc"]["interval"]
    assert srcc is not None
    assert srcc == pytest.approx(np.quantile(parts[0] - parts[1], (0.025, 0.975)))
    assert srcc[1] - srcc[0] < apart * 1.1


def test_a_model_does_not_differ_from_itself():
    one = {"x": predicted(*noisy(30, 0.2)), "y": predicted(*noisy(30, 0.3))}
    rows = compare({"a": one, "b": one})["differences"]
    assert [row["set"] for row in rows] == ["x", "y", MEAN]
    for row in rows:
        for figure in row["figures"].values():
            assert (figure["value"], figure["interval"]) == (0.0, [0.0, 0.0])


def test_an_undefined_side_makes_the_difference_undefined():
    scores, targets = noisy(20, 0.1)
    sides = {"a": {"d": predicted(scores, targets)}, "b": {"d": predicted([0.4] * 20, targets, unscaled="no scale")}}
    (row,) = compare(sides)["differences"]
    assert row["figures"]["plcc"]["undefined"] == "all predictions are equal"
    assert row["figures"]["mae"]["undefined"] == "no scale"


def test_resamples_depend_on_seed_and_set_only():
    one = predicted(*noisy(30, 0.2))
    first, other_seed = compare({"m": {"d": one}}, seed=1), compare({"m": {"d": one}}, seed=2)
    beside = compare({"n": {"d": predicted(*noisy(30, 0.5))}, "m": {"d": one}}, seed=1)
    assert beside["models"]["m"] == first["models"]["m"]
    assert other_seed["models"]["m"] != first["models"]["m"]


def test_without_resamples_there_are_no_intervals():
    both = {"x": predicted(*noisy(9, 0.2)), "y": predicted(*noisy(9, 0.3))}
    found = compare({"a": both, "b": both}, bootstrap=0)
    assert found["models"]["a"]["mean"]["srcc"]["interval"] is None
    assert found["differences"][-1]["figures"]["srcc"]["interval"] is None
