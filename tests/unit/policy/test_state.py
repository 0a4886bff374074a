"""Training state: saved and loaded in a world of one."""

from __future__ import annotations

import pytest
import torch
from test_trainer import IMAGES, batch_of_groups, share, trainer, weights

from rapo.errors import RunFolderError
from rapo.policy.host_memory.host_copy import on_host
from rapo.policy.state import to_universal, write_state
from rapo.util.file_manifest import damage

pytestmark = pytest.mark.usefixtures("world")

LINEAR = ("rapo.schedule=linear", "rapo.steps=10")


def steps(made, count):
    return [made.step(share(batch_of_groups(), 2), IMAGES) for _ in range(count)]


def save(made, folder):
    return write_state(folder, made.pack_state(made.copy_state()))


def same(one, other):
    mine, yours = weights(one), weights(other)
    return all(torch.equal(mine[name], yours[name]) for name in mine)


@pytest.mark.parametrize(
    "settings",
    [("learner.zero_stage=0",), ("learner.zero_stage=2",), ("learner.zero_stage=3",), ("learner.lora.rank=4",)],
)
@pytest.mark.parametrize("way", ["files", "bytes"])
def test_training_continues_exactly_from_a_state_that_was_copied_and_packed_later(tiny_model, tmp_path, settings, way):
    """The steps that run in between change nothing of the copy."""
    made = trainer(tiny_model, *LINEAR, *settings)
    steps(made, 2)
    number = made.copy_state()
    rest = steps(made, 2)
    parts = made.pack_state(number)
    assert all(data.nbytes for data in parts.values())
    again = trainer(tiny_model, *LINEAR, *settings)
    if way == "files":
        write_state(tmp_path, parts)
        again.load_state(tmp_path)
    else:
        again.unpack_state(parts)
    assert again.version == 2
    assert steps(again, 2) == rest
    assert same(again, made)


def test_the_files_are_those_that_deepspeed_writes_itself(tiny_model, tmp_path):
    made = trainer(tiny_model)
    steps(made, 1)
    made.engine.save_checkpoint(str(tmp_path / "own"), tag="state", save_latest=False)
    entries = save(made, tmp_path / "ours")
    names = {path.name for path in (tmp_path / "own" / "state").iterdir()}
    assert set(entries) == {f"state/{name}" for name in names}
    assert damage(tmp_path / "ours", entries) is None
    for name in names:
        own, ours = ((tmp_path / folder / "state" / name).stat().st_size for folder in ("own", "ours"))
        assert ours < 1.05 * own + 4096, "storages that are shared are written once"


def test_a_copy_keeps_what_is_shared_and_shares_nothing_with_what_it_is_of():
    whole = torch.arange(6.0)
    parts = {"whole": whole, "views": [whole[:2], (whole[2:].view(2, 2),)], "step": 3}
    copied = on_host(parts)
    whole += 1
    assert torch.equal(copied["whole"], torch.arange(6.0))
    assert torch.equal(copied["views"][1][0], torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    assert copied["views"][0].untyped_storage().data_ptr() == copied["whole"].untyped_storage().data_ptr()


def test_saving_changes_nothing(tiny_model):
    plain, saved = trainer(tiny_model), trainer(tiny_model)
    for made in (plain, saved):
        steps(made, 1)
        if made is saved:
            made.pack_state(made.copy_state())
        steps(made, 1)
    assert same(plain, saved)


def test_training_continues_from_a_converted_state(tiny_model, tmp_path):
    made = trainer(tiny_model, *LINEAR)
    steps(made, 2)
    save(made, tmp_path / "saved")
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
