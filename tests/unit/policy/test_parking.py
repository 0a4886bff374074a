"""Tensors that leave the device between two steps, and come back with the next call that needs
them."""

from __future__ import annotations

import gc

import pytest
import torch
from builders import gathered
from test_trainer import IMAGES, batch_of_groups, share, trainer, weights

from rapo.policy.host_memory.parking import Parking

pytestmark = pytest.mark.usefixtures("world")

CPU = torch.device("cpu")


def storages() -> dict[int, torch.UntypedStorage]:
    """The storages of all tensors of this process, by address; without the files that are mapped
    into memory, of which a device has none. While they are held no other has such an address."""
    found = [one.untyped_storage() for one in gc.get_objects() if isinstance(one, torch.Tensor) and one.device == CPU]
    return {one._cdata: one for one in found if one.resizable()}


@pytest.mark.parametrize(
    "overrides",
    [
        ("learner.zero_stage=0",),
        ("learner.zero_stage=2", "policy.dtype=bfloat16"),
        ("learner.zero_stage=3", "policy.dtype=bfloat16"),
        ("learner.lora.rank=4", "learner.offload=optimizer"),
    ],
)
def test_steps_with_parking_between_them_are_the_same_to_the_last_bit(tiny_model, overrides):
    staying, moving = trainer(tiny_model, *overrides), trainer(tiny_model, *overrides)
    for _ in range(2):
        expected = staying.step(share(batch_of_groups(), 2), IMAGES)
        assert moving.step(share(batch_of_groups(), 2), IMAGES) == expected
        moving.park()
    one, other = gathered(staying.weights(2)), gathered(moving.weights(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", [0, 3])
def test_what_is_parked_takes_no_memory_of_the_device(tiny_model, stage):
    gc.collect()
    before = storages()
    made = trainer(tiny_model, f"learner.zero_stage={stage}")
    made.step(share(batch_of_groups(), 2), IMAGES)
    gc.collect()
    held = sum(one.nbytes() for key, one in storages().items() if key not in before)
    least = 2 * 4 * sum(getattr(p, "ds_numel", p.numel()) for p in made.engine.module.parameters())
    assert held >= least, "two moments"
    made.park()
    hosts = {host.untyped_storage()._cdata for _, host in made._parking._places.values()}
    gc.collect()
    left = sum(one.nbytes() for key, one in storages().items() if key not in before and key not in hosts)
    assert left < 0.02 * held
    made.step(share(batch_of_groups(), 2), IMAGES)


def test_a_state_is_copied_of_parked_tensors_and_loaded_over_them(tiny_model):
    made = trainer(tiny_model)
    made.step(share(batch_of_groups(), 2), IMAGES)
    before = weights(made)
    made.park()
    state = made.pack_state(made.copy_state())
    made.step(share(batch_of_groups(), 2), IMAGES)
    made.park()
    made.park()  # once more changes nothing
    made.unpack_state(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(made).items())


def test_views_stay_views_of_the_same_storage():
    flat = torch.arange(6.0)
    view, parking = flat[2:4], Parking(CPU)
    parking.leave([view, flat])
    assert flat.untyped_storage().nbytes() == 0
    parking.come_back()
    assert view.tolist() == [2.0, 3.0]
    view.zero_()
    assert flat.tolist() == [0.0, 1.0, 0.0, 0.0, 4.0, 5.0]
