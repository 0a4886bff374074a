"""Reward: against slow loops written from the formulas, and properties of every batch."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import ndtr

from rapo.algorithm import reward
from rapo.algorithm.reward import RewardSettings, rapo_rewards
from rapo.config import load_config
from rapo.errors import DataError

TIES = ("half", "win", "drop", "soft")
TERMS = ("absolute", "relative", "format", "total", "advantage")


def batch(seed: int, images: int = 9, completions: int = 4, invalid: float = 0.2, datasets: int = 2) -> dict:
    """Two-decimal labels, so that some tie; some images without a valid completion, some with
    one."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, (images, completions))
    scores[rng.uniform(size=scores.shape) < invalid] = np.nan
    return {
        "scores": scores,
        "targets": rng.uniform(0.3, 0.5, images).round(2),
        "dataset_ids": [f"set{index}" for index in rng.integers(0, datasets, images)],
        "target_std": rng.uniform(0, 0.2, images),
    }


batches = st.builds(
    batch,
    seed=st.integers(0, 10**6),
    images=st.integers(1, 12),
    completions=st.integers(1, 8),
    invalid=st.sampled_from((0.0, 0.2, 0.7, 1.0)),
    datasets=st.integers(1, 3),
)


def literal(scores, targets, dataset_ids, target_std, *, ties="half", sigma=0.1, gamma=1e-6):
    """The absolute and relative term, one completion and one opponent at a time."""
    images, completions = scores.shape
    valid = [[float(score) for score in row if not math.isnan(score)] for row in scores]
    absolute, relative = np.zeros(scores.shape), np.zeros(scores.shape)

    def mean(j):
        return sum(valid[j]) / len(valid[j])

    def variance(j):
        return sum((x - mean(j)) ** 2 for x in valid[j]) / (len(valid[j]) - 1) if len(valid[j]) > 1 else 0.0

    for i in range(images):
        for k in range(completions):
            o = float(scores[i, k])
            if math.isnan(o):
                continue
            absolute[i, k] = math.exp(-0.5 * ((o - targets[i]) / sigma) ** 2)
            terms = []
            for j in range(images):
                tie = targets[i] == targets[j]
                if j == i or dataset_ids[i] != dataset_ids[j] or not valid[j] or (tie and ties == "drop"):
                    continue
                if ties == "soft":
                    spread = math.sqrt(target_std[i] ** 2 + target_std[j] ** 2 + gamma)
                    c = float(ndtr((targets[i] - targets[j]) / spread))
                elif tie:
                    c = 1.0 if ties == "win" else 0.5
                else:
                    c = 1.0 if targets[i] > targets[j] else 0.0
                p = float(ndtr((o - mean(j)) / math.sqrt(variance(i) + variance(j) + gamma)))
                terms.append(math.sqrt(c * p) + math.sqrt((1 - c) * (1 - p)))
            relative[i, k] = sum(terms) / len(terms) if terms else 0.0
    return absolute, relative


def literal_upstream(scores, targets):
    """The released code's results for valid scores: ranks, errors, totals with the format term, and
    advantages."""
    images, completions = scores.shape
    rank, error = np.zeros(scores.shape), np.zeros(scores.shape)
    for i in range(images):
        for k in range(completions):
            fidelity = 0.0
            for j in range(images):
                if j == i:
                    continue
                spread = math.sqrt(np.var(scores[i], ddof=1) + np.var(scores[j], ddof=1) + 1e-6)
                p = float(ndtr((scores[i, k] - np.mean(scores[j])) / spread))
                c = 1.0 if targets[i] >= targets[j] else 0.0
                fidelity += math.sqrt(c * p + 1e-6) + math.sqrt((1 - c) * (1 - p) + 1e-6)
            rank[i, k] = round(fidelity / (images - 1), 4)
            error[i, k] = round(math.exp(-0.5 * (abs(scores[i, k] - targets[i]) / 0.1) ** 2) + 1e-5, 4)
    total = rank + error + 1.0
    advantage = (total - total.mean(1, keepdims=True)) / (total.std(1, ddof=1, keepdims=True) + 1e-4)
    return rank, error, total, advantage


@given(batches, st.sampled_from(TIES), st.sampled_from((0.05, 0.1, 0.4)))
@settings(max_examples=120, derandomize=True)
def test_equals_the_formulas(data, ties, sigma):
    rewards = rapo_rewards(**data, settings=RewardSettings(ties=ties, sigma=sigma))
    absolute, relative = literal(**data, ties=ties, sigma=sigma)
    np.testing.assert_allclose(rewards.absolute, absolute, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rewards.relative, relative, rtol=0, atol=1e-12)


@given(batches, st.sampled_from(TIES), st.sampled_from(("std", "mean")))
@settings(max_examples=80, derandomize=True)
def test_bounds_and_invalid(data, ties, advantage):
    rewards = rapo_rewards(**data, settings=RewardSettings(ties=ties, advantage=advantage))
    invalid = np.isnan(data["scores"])
    for name in ("absolute", "relative", "format", "total"):
        values = getattr(rewards, name)
        assert np.all((values >= 0) & (values <= (3 if name == "total" else 1))), name
        assert np.all(values[invalid] == 0), name
    assert np.all(np.isfinite(rewards.advantage))
    np.testing.assert_allclose(rewards.advantage.sum(axis=1), 0, atol=1e-9)
    assert all(math.isfinite(value) for value in rewards.metrics.values())
    assert rewards.metrics["parse_rate"] == pytest.approx(1 - invalid.mean())


@given(batches, st.randoms(use_true_random=False))
@settings(max_examples=60, derandomize=True)
def test_order_of_images_and_completions_does_not_matter(data, random):
    images, completions = data["scores"].shape
    rows, columns = random.sample(range(images), images), random.sample(range(completions), completions)
    before = rapo_rewards(**data)
    after = rapo_rewards(
        data["scores"][np.ix_(rows, columns)],
        data["targets"][rows],
        dataset_ids=[data["dataset_ids"][row] for row in rows],
    )
    for name in TERMS:
        np.testing.assert_allclose(getattr(after, name), getattr(before, name)[np.ix_(rows, columns)], atol=1e-9)


@given(batches)
@settings(max_examples=40, derandomize=True)
def test_data_sets_do_not_touch_each_other(data):
    whole = rapo_rewards(**data)
    for name in set(data["dataset_ids"]):
        rows = np.flatnonzero(np.array(data["dataset_ids"]) == name)
        alone = rapo_rewards(data["scores"][rows], data["targets"][rows])
        np.testing.assert_allclose(whole.total[rows], alone.total, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=40, derandomize=True)
def test_an_invalid_completion_changes_nothing_for_the_others(seed, extra):
    data = batch(seed, invalid=0.0)
    padded = np.hstack([data["scores"], np.full((len(data["scores"]), extra), np.nan)])
    before = rapo_rewards(**data)
    after = rapo_rewards(padded, data["targets"], dataset_ids=data["dataset_ids"])
    np.testing.assert_allclose(after.total[:, :-extra], before.total, atol=1e-12)
    assert np.all(after.advantage[:, -1] < 0)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_absolute_falls_with_the_error(target, one, other):
    absolute = rapo_rewards([[one, other]], [target]).absolute[0]
    if abs(one - target) < abs(other - target):
        assert absolute[0] >= absolute[1]
    np.testing.assert_allclose(rapo_rewards([[target, np.nan]], [target]).absolute, [[1.0, 0.0]])


def test_relative_rewards_the_right_order():
    scores = np.array([[0.2, 0.3], [0.5, 0.6], [0.8, 0.9]])
    right = rapo_rewards(scores, [0.1, 0.5, 0.9]).relative
    wrong = rapo_rewards(scores, [0.9, 0.5, 0.1]).relative
    assert right.min() > 0.9
    assert wrong[[0, 2]].max() < 0.1


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("elements", [1, 50, 10**9])
def test_blocks_equal_the_whole(monkeypatch, elements, ties):
    data, chosen = batch(3, images=23), RewardSettings(ties=ties)
    whole = rapo_rewards(**data, settings=chosen)
    monkeypatch.setattr(reward, "_BLOCK_ELEMENTS", elements)
    blocks = rapo_rewards(**data, settings=chosen)
    for name in TERMS:
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))


def test_memory_is_flat():
    rng = np.random.default_rng(0)
    scores, targets = rng.uniform(0, 1, (3000, 4)), rng.uniform(0, 1, 3000)
    tracemalloc.start()
    rapo_rewards(scores, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20, "the pairs alone would take 275 MiB"


@pytest.mark.parametrize("value", [1.01, -0.2, 100.0, math.inf, -math.inf])
def test_a_score_out_of_range_is_invalid(value):
    scores = np.array([[0.4, 0.5, value], [0.6, 0.7, 0.8]])
    as_nan = np.where(scores == value, np.nan, scores)
    for name in TERMS:
        one, other = getattr(rapo_rewards(scores, [0.4, 0.7]), name), getattr(rapo_rewards(as_nan, [0.4, 0.7]), name)
        np.testing.assert_array_equal(one, other)


def test_without_an_opponent_relative_is_zero_and_reported():
    assert rapo_rewards([[0.4, 0.6]], [0.5]).metrics["no_opponent"] == 1
    scores = [[0.4, 0.6], [np.nan, np.nan]]
    rewards = rapo_rewards(scores, [0.5, 0.7])
    assert rewards.metrics["no_opponent"] == 1
    assert np.all(rewards.relative == 0)
    assert np.all(rewards.absolute[0] > 0)
    dropped = rapo_rewards([[0.4, 0.6], [0.1, 0.2]], [0.5, 0.5], settings=RewardSettings(ties="drop"))
    assert dropped.metrics["no_opponent"] == 2
    assert dropped.metrics["ties"] == 1.0


def test_a_group_without_spread_has_no_advantage():
    for constant in (0.3, np.nan):
        scores = np.array([[constant] * 8, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]])
        rewards = rapo_rewards(scores, [0.41, 0.6], settings=RewardSettings(advantage_eps=0.0))
        assert np.all(rewards.advantage[0] == 0)
        assert np.any(rewards.advantage[1] != 0)
        assert rewards.metrics["zero_spread"] == 0.5


def test_advantage_is_the_normalised_total():
    data = batch(5)
    total = rapo_rewards(**data).total
    by_std = rapo_rewards(**data).advantage
    by_mean = rapo_rewards(**data, settings=RewardSettings(advantage="mean")).advantage
    centred = total - total.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(by_mean, centred, atol=1e-12)
    np.testing.assert_allclose(by_std, centred / (total.std(axis=1, ddof=1, keepdims=True) + 1e-4), atol=1e-12)


def test_weights_apply_to_their_terms():
    data = batch(6)
    chosen = RewardSettings(weight_absolute=2.0, weight_relative=0.5, weight_format=0.25)
    rewards = rapo_rewards(**data, settings=chosen)
    expected = 2.0 * rewards.absolute + 0.5 * rewards.relative + 0.25 * rewards.format
    np.testing.assert_allclose(rewards.total, expected, atol=1e-12)


def test_sigma_by_data_set_and_by_spread():
    scores, targets = [[0.5, 0.6], [0.2, 0.4], [0.5, 0.9]], np.array([0.4, 0.2, 0.8])
    ids = ["a", "a", "b"]
    rewards = rapo_rewards(scores, targets, settings=RewardSettings(sigma={"a": 0.2, "b": 0.1}), dataset_ids=ids)
    np.testing.assert_allclose(rewards.absolute[:, 1], np.exp([-0.5, -0.5, -0.5]))
    spread = RewardSettings(sigma=0.5, sigma_unit="spread")
    rewards = rapo_rewards(scores, targets, settings=spread, dataset_ids=ids)
    sigma = 0.5 * np.array([targets[:2].std(ddof=1)] * 2 + [targets.std(ddof=1)])
    np.testing.assert_allclose(rewards.absolute[:, 0], np.exp(-0.5 * (np.array([0.1, 0.0, 0.3]) / sigma) ** 2))
    with pytest.raises(DataError, match="'b'"):
        rapo_rewards(scores, targets, settings=RewardSettings(sigma={"a": 0.2}), dataset_ids=ids)


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 6))
@settings(max_examples=40, derandomize=True)
def test_upstream_preset_equals_the_released_code(seed, images, completions):
    data = batch(seed, images=images, completions=completions, invalid=0.0)
    rewards = rapo_rewards(**data, settings=RewardSettings(preset="upstream"))
    rank, error, total, advantage = literal_upstream(data["scores"], data["targets"])
    np.testing.assert_allclose(rewards.relative, rank, atol=1e-12)
    np.testing.assert_allclose(rewards.absolute, error, atol=1e-12)
    np.testing.assert_allclose(rewards.total, total, atol=1e-12)
    np.testing.assert_allclose(rewards.advantage, advantage, atol=1e-9)


def test_upstream_preset_refuses_other_settings():
    assert RewardSettings(preset="upstream").ties == "win"
    assert RewardSettings(**RewardSettings(preset="upstream").model_dump()).ties == "win"
    with pytest.raises(ValidationError, match="fixes sigma"):
        RewardSettings(preset="upstream", sigma=0.2)
    upstream = ["rapo.reward.preset=upstream", "rapo.reward.weight_grounded=0"]
    assert load_config(overrides=upstream).rapo.reward.score == "sampled"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [0.1, 0.2], "targets": [0.1, 0.2]}, "images, completions"),
        ({"scores": np.zeros((0, 4)), "targets": []}, "images, completions"),
        ({"scores": [[0.1, 0.2]], "targets": [0.1, 0.2]}, "targets must be"),
        ({"scores": [[0.1, 0.2]], "targets": [5.0]}, "not in"),
        ({"scores": [[0.1, 0.2]], "targets": [np.nan]}, "not in"),
        ({"scores": [[0.1, 0.2]], "targets": [0.5], "dataset_ids": ["a", "b"]}, "dataset_ids"),
        ({"scores": [[0.1, 0.2]], "targets": [0.5], "target_std": [-1.0]}, "target_std"),
        ({"scores": [[0.1, 0.2]], "targets": [0.5], "settings": RewardSettings(ties="soft")}, "raters' sd"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        rapo_rewards(arguments.pop("scores"), arguments.pop("targets"), **arguments)
