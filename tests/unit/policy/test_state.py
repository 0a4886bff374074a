"""Training state: saved and loaded in a world of one."""

from __future__ import annotations

import pytest
import torch
from test_trainer import IMAGES, batch_of_groups, share, trainer, weights

from rapo.errors import RunFolderError
from rapo.policy.state import to_universal

pytestmark = pytest.mark.usefixtures("world")

LINEAR = ("rapo.schedule=linear", "rapo.steps=10")


def steps(made, count):
    return [made.step(share(batch_of_groups(), 2), IMAGES) for _ in range(count)]


def same(one, other):
    mine, yours = weights(one), weights(other)
    return all(torch.equal(mine[name], yours[name]) for name in mine)


@pytest.mark.parametrize("settings", [("learner.zero_stage=0",), ("learner.zero_stage=2",), ("learner.lora.rank=4",)])
@pytest.mark.parametrize("way", ["files", "bytes"])
def test_training_continues_exactly_from_a_saved_state(tiny_model, tmp_path, settings, way):
    made = trainer(tiny_model, *LINEAR, *settings)
    steps(made, 2)
    if way == "files":
        made.save_state(tmp_path)
    else:
        parts = made.pack_state()
        assert all(data.nbytes for data in parts.values())
    rest = steps(made, 2)
    again = trainer(tiny_model, *LINEAR, *settings)
    if way == "files":
        again.load_state(tmp_path)
    else:
        again.unpack_state(parts)
    assert again.version == 2
    assert steps(again, 2) == rest
    assert same(again, made)


def test_saving_changes_nothing(tiny_model):
    plain, saved = trainer(tiny_model), trainer(tiny_model)
    for made in (plain, saved):
        steps(made, 1)
        if made is saved:
            made.pack_state()
        steps(made, 1)
    assert same(plain, saved)


def test_training_continues_from_a_converted_state(tiny_model, tmp_path):
    made = trainer(tiny_model, *LINEAR)
    steps(made, 2)
    made.save_state(tmp_path / "saved")
    rest = steps(made, 1)
    to_universal(tmp_path / "saved", tmp_path / "universal", timeout_s=120)
    again = trainer(tiny_model, *LINEAR)
    again.load_state(tmp_path / "universal", universal=True)
    assert again.version == 2
    (one,) = steps(again, 1)
    assert one["loss"] == pytest.approx(rest[0]["loss"], rel=1e-5)
    assert one["learning_rate"] == rest[0]["learning_rate"]


def test_without_a_state_there_is_an_error(tiny_model, tmp_path):
    with pytest.raises(RunFolderError, match="holds no training state"):
        trainer(tiny_model).load_state(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match="cannot be converted"):
        to_universal(tmp_path / "nothing", tmp_path / "target", timeout_s=120)
