"""BatchSampler: epochs, data sets, and batches that depend on seed and step alone."""

from __future__ import annotations

from collections import Counter

import pytest
from builders import record
from hypothesis import given
from hypothesis import strategies as st

from rapo.algorithm.batch_sampler import BatchSampler
from rapo.errors import DataError
from rapo.records import ImageRecord


def records(**sizes: int) -> list[ImageRecord]:
    return [record(f"{name}{i:03d}", name) for name, size in sizes.items() for i in range(size)]


def sample(sampler, steps):
    return [[r.uid for r in sampler.batch(step)] for step in steps]


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 3))
def test_each_epoch_samples_each_image_once_and_no_batch_holds_one_twice(count, size, seed):
    sampler = BatchSampler(records(a=count), size, seed=seed, mix_datasets=False)
    batches = sample(sampler, range(4 * count))
    assert all(len(set(batch)) == len(batch) == min(size, count) for batch in batches)
    sampled = [uid for batch in batches for uid in batch]
    for start in range(0, len(sampled) - count + 1, count):
        assert len(set(sampled[start : start + count])) == count


def test_epochs_differ_and_seeds_differ():
    one, other = (BatchSampler(records(a=50), 50, seed=seed, mix_datasets=False) for seed in (0, 1))
    assert sample(one, [0]) != sample(one, [1])
    assert sample(one, [0]) != sample(other, [0])


@pytest.mark.parametrize("mix", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(mix):
    """A resumed run asks for step 37 first and may go back; it must get the same batches."""
    sets = records(a=23, b=11)
    straight = sample(BatchSampler(sets, 7, seed=3, mix_datasets=mix), range(60))
    resumed = BatchSampler(sets, 7, seed=3, mix_datasets=mix)
    for step in (37, 59, 5, 5, 0, 21):
        assert sample(resumed, [step]) == [straight[step]]


def test_data_sets_take_turns_by_size_and_are_not_mixed():
    sampler = BatchSampler(records(a=60, b=20), 10, seed=0, mix_datasets=False)
    names = [{r.dataset for r in sampler.batch(step)} for step in range(40)]
    assert all(len(found) == 1 for found in names)
    assert Counter(next(iter(found)) for found in names) == {"a": 30, "b": 10}
    assert {"b"} in names[:4], "the smaller set must not wait for the end"


def test_each_data_set_has_epochs_of_its_own():
    sampler = BatchSampler(records(a=12, b=6), 6, seed=0, mix_datasets=False)
    sampled = Counter(uid for batch in sample(sampler, range(6)) for uid in batch)
    assert set(sampled.values()) == {2}
    assert len(sampled) == 18


def test_mixed_batches_hold_several_sets():
    sampler = BatchSampler(records(a=30, b=30), 20, seed=0, mix_datasets=True)
    assert {r.dataset for r in sampler.batch(0)} == {"a", "b"}


@pytest.mark.parametrize("mix", [False, True])
def test_a_small_set_shrinks_no_batch(mix):
    sampler = BatchSampler(records(a=100, b=3), 32, seed=0, mix_datasets=mix)
    batches = sample(sampler, range(200))
    assert {len(set(batch)) for batch in batches} == {32}
    # It waits for its turn until it lacks half a batch, and keeps up from then on.
    assert Counter(uid[0] for batch in batches for uid in batch)["b"] == pytest.approx(200 * 32 * 3 / 103, abs=17)
    assert BatchSampler(records(a=5, b=3), 32, seed=0, mix_datasets=mix).size == 8


@pytest.mark.parametrize("mix", [False, True])
def test_weights_give_the_shares_of_the_images(mix):
    sets = records(ava=300, tad=40, flickr=90)
    sampler = BatchSampler(sets, 10, seed=0, mix_datasets=mix, weights={"ava": 2.0, "tad": 2.0, "flickr": 1.0})
    batches = sample(sampler, range(50))
    assert all(len(set(batch)) == 10 for batch in batches)
    assert Counter(uid[:3] for batch in batches for uid in batch) == {"ava": 200, "tad": 200, "fli": 100}
    counts = [Counter(uid[:3] for uid in batch) for batch in batches]
    if mix:
        assert all(count == {"ava": 4, "tad": 4, "fli": 2} for count in counts)
    else:
        assert all(len(count) == 1 for count in counts)


@pytest.mark.parametrize("mix", [False, True])
def test_weighted_batches_depend_on_seed_and_step_alone(mix):
    sets, weights = records(a=23, b=5, c=11), {"a": 1.0, "b": 3.0, "c": 2.0}
    straight = sample(BatchSampler(sets, 7, seed=3, mix_datasets=mix, weights=weights), range(60))
    resumed = BatchSampler(sets, 7, seed=3, mix_datasets=mix, weights=weights)
    for step in (37, 59, 5, 5, 0, 21):
        assert sample(resumed, [step]) == [straight[step]]
    sampled = [uid for batch in straight for uid in batch if uid[0] == "c"]
    for start in range(0, len(sampled) - 11 + 1, 11):
        assert len(set(sampled[start : start + 11])) == 11, "an epoch of each set samples each image once"


def test_a_set_without_a_weight_is_an_error():
    with pytest.raises(DataError, match="'b' has no weight"):
        BatchSampler(records(a=3, b=3), 2, seed=0, mix_datasets=False, weights={"a": 1.0})


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no training image"):
        BatchSampler([], 4, seed=0, mix_datasets=False)
