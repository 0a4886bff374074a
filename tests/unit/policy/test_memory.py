"""What saves memory computes the same update, and where memory is missing there are words."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from builders import gathered
from test_trainer import IMAGES, batch_of_groups, share, trainer, update

from rapo.config import load_config
from rapo.errors import FaultKind, ResourceError, RoleError
from rapo.policy.example_batches import split_by_tokens
from rapo.policy.forward import GroupPolicy
from rapo.policy.sft import SupervisedTrainer
from rapo.policy.trainer import PolicyTrainer
from rapo.util.progress import Progress

pytestmark = pytest.mark.usefixtures("world")

CRITIQUES = {"a": "the light is even", "b": "dim", "c": "strong colors, but the horizon leans", "d": "soft"}
COLD = ("coldstart.batch_size=4", "coldstart.warmup_steps=0", "coldstart.steps=4", "coldstart.learning_rate=1e-3")


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).norm() / other.norm()) < 1e-2


@pytest.mark.parametrize("zero", [1, 2])
def test_an_optimiser_in_the_hosts_memory_makes_the_same_update(tiny_model, zero):
    plain, _ = update(trainer(tiny_model, f"learner.zero_stage={zero}"), share(batch_of_groups(), 2))
    moved, _ = update(
        trainer(tiny_model, f"learner.zero_stage={zero}", "learner.offload=optimizer"), share(batch_of_groups(), 2)
    )
    assert plain.norm() > 0
    assert close(moved, plain)


def cold_start(tiny_model: Path, *overrides: str) -> tuple[dict[str, torch.Tensor], float]:
    """The weights after two steps of a cold start, and the last loss."""
    made = SupervisedTrainer(str(tiny_model), load_config(None, (*COLD, *overrides)), world=1)
    examples = [made.example(IMAGES[uid], text, 0.5) for uid, text in CRITIQUES.items()]
    losses = [made.step(examples) for _ in range(2)]
    return {name: tensor.clone() for name, tensor in gathered(made.tensors()).items()}, losses[-1]


@pytest.mark.parametrize(
    "overrides",
    [
        ("coldstart.gradient_checkpointing=true",),
        ("coldstart.offload=optimizer",),
        ("coldstart.packing=prefix",),
        ("coldstart.micro_batch_tokens=90",),
        ("coldstart.micro_batch_tokens=90", "coldstart.packing=prefix", "coldstart.gradient_checkpointing=true"),
    ],
)
def test_a_cold_start_that_saves_memory_learns_the_same(tiny_model, overrides):
    plain, loss = cold_start(tiny_model)
    saved, other = cold_start(tiny_model, *overrides)
    assert other == pytest.approx(loss, rel=1e-4)
    start = cold_start_of(tiny_model)
    one, two = (torch.cat([(w[name] - start[name]).flatten() for name in start]) for w in (saved, plain))
    assert float((one - two).norm() / two.norm()) < 2e-2


def cold_start_of(tiny_model: Path) -> dict[str, torch.Tensor]:
    made = SupervisedTrainer(str(tiny_model), load_config(None, COLD), world=1)
    return {name: tensor.clone() for name, tensor in gathered(made.tensors()).items()}


def test_checkpointed_layers_are_computed_again(tiny_model, monkeypatch):
    calls = {True: 0, False: 0}
    for saves in calls:
        made = SupervisedTrainer(
            str(tiny_model),
            load_config(None, (*COLD, f"coldstart.gradient_checkpointing={str(saves).lower()}")),
            world=1,
        )
        layer = made.engine.module.model.model.language_model.layers[0].mlp

        def count(*_, saves=saves):
            calls[saves] += 1

        layer.register_forward_pre_hook(count)
        made.step([made.example(IMAGES["a"], "dim", 0.5)])
    assert calls[True] == 2 * calls[False]


def test_examples_fill_micro_batches_by_tokens():
    lengths = [10, 50, 12, 49, 11, 400]
    parts = split_by_tokens(lengths, 8, 100, padded=True)
    assert sorted(index for part in parts for index in part) == list(range(6))
    assert all(len(part) == 1 or max(lengths[i] for i in part) * len(part) <= 100 for part in parts)
    assert [5] in parts, "what is longer than the limit goes alone"
    assert len(split_by_tokens(lengths, 2, 10_000, padded=True)) == 3
    assert len(split_by_tokens(lengths[:5], 8, 132, padded=False)) == 1


@pytest.fixture
def small_device(monkeypatch):
    """A device with memory for a micro-batch of one group."""
    plain = GroupPolicy.forward

    def forward(self, batch):
        if len(batch.prompt_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 34.70 GiB")
        return plain(self, batch)

    monkeypatch.setattr(GroupPolicy, "forward", forward)


def test_a_lack_of_memory_is_named_and_half_the_micro_batch_fits(tiny_model, small_device):
    groups = batch_of_groups("ab")
    with pytest.raises(RoleError, match=r"2 group\(s\).*learner\.gradient_checkpointing") as raised:
        trainer(tiny_model).step(share(groups, 1), IMAGES)
    assert raised.value.kind is FaultKind.OUT_OF_MEMORY
    assert pickle.loads(pickle.dumps(raised.value)).kind is FaultKind.OUT_OF_MEMORY
    halved = PolicyTrainer(str(tiny_model), load_config(None), world=1, splits=2)
    assert halved.step(share(groups, 1), IMAGES)["loss"] != 0.0


def test_a_single_group_that_does_not_fit_ends_the_run(tiny_model, monkeypatch):
    def forward(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 34.70 GiB")

    monkeypatch.setattr(GroupPolicy, "forward", forward)
    with pytest.raises(ResourceError, match=r"1 group\(s\).*learner\.offload"):
        trainer(tiny_model).step(share(batch_of_groups("a"), 1), IMAGES)


def test_the_micro_batch_at_hand_is_told_and_its_end(tiny_model, monkeypatch):
    progress, seen = Progress(), []
    made = PolicyTrainer(str(tiny_model), load_config(None), world=1, progress=progress)
    plain = GroupPolicy.forward

    def forward(self, batch):
        seen.append(progress.stalled_s)
        return plain(self, batch)

    monkeypatch.setattr(GroupPolicy, "forward", forward)
    made.step(share(batch_of_groups("ab"), 2), IMAGES)
    assert len(seen) >= 2
    assert all(value > 0.0 for value in seen)
    assert progress.stalled_s == 0.0


def test_a_reference_that_is_shared_out_says_the_same(tiny_model):
    def kl(zero):
        made = trainer(tiny_model, "rapo.loss.kl_beta=0.1", f"learner.zero_stage={zero}")
        return [made.step(share(batch_of_groups("ab"), 1), IMAGES)["kl"] for _ in range(2)]

    shared = kl(3)
    assert shared == pytest.approx(kl(2), rel=1e-3)
    assert shared[1] > 1e-4


@pytest.mark.parametrize("zero", [2, 3])
def test_what_does_not_train_is_no_part_of_the_state(tiny_model, tmp_path, zero):
    settings = ("learner.lora.rank=4", f"learner.zero_stage={zero}")
    made = trainer(tiny_model, *settings)
    made.step(share(batch_of_groups(), 2), IMAGES)
    adapters = sum(getattr(p, "ds_numel", p.numel()) for p in made.engine.module.parameters() if p.requires_grad)
    state = made.pack_state(made.copy_state())
    assert sum(data.nbytes for data in state.values()) < 16 * adapters + 200_000, "the base has 370,000 parameters"
    after = made.step(share(batch_of_groups(), 2), IMAGES)
    again = trainer(tiny_model, *settings)
    again.unpack_state(state)
    assert again.step(share(batch_of_groups(), 2), IMAGES) == after
