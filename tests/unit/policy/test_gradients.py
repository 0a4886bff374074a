"""Gradients in bfloat16: added up in float32, whatever the ZeRO stage; steps that are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_grad
from test_trainer import ADVANTAGES, IMAGES, batch_of_groups, share, trainer, update, weights

from rapo.algorithm.partition import Share
from rapo.policy.trainer import PolicyTrainer
from rapo.records import ScoredGroup

pytestmark = pytest.mark.usefixtures("world")

BF16 = ("policy.dtype=bfloat16", "rapo.loss.kl_beta=0", "rapo.loss.answer=policy_gradient", "rapo.reward.score=sampled")
MICRO_BATCHES = 32


def single_groups():
    """Groups of one micro-batch each."""
    return [g for _ in range(MICRO_BATCHES // len(ADVANTAGES)) for g in batch_of_groups()]


def accumulated(made: PolicyTrainer, share_of_all: Share) -> dict[str, torch.Tensor]:
    """The gradient that the optimiser is given, without its step."""
    found: dict[str, torch.Tensor] = {}

    def look() -> None:
        for name, parameter in made.engine.module.model.named_parameters():
            found[name] = safe_get_full_grad(parameter).double().clone()

    made.engine.step = look
    made.step(share_of_all, IMAGES)
    return found


def exact(made: Any, groups: list[ScoredGroup]) -> dict[str, torch.Tensor]:
    """The sum of the micro-batches' gradients in float64, each from plain autograd."""
    model = made.engine.module
    total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in model.model.named_parameters()}
    whole = share(groups, MICRO_BATCHES)
    prepared = {uid: made._preparation.prepare(data) for uid, data in IMAGES.items()}
    made.engine = model  # no hooks of DeepSpeed's
    for part in whole.parts():
        model.zero_grad(set_to_none=True)
        made._first_update = True
        made._loss(part, prepared, whole, {}).backward()
        for name, parameter in model.model.named_parameters():
            total[name] += parameter.grad.double()
    return total


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_split_over_micro_batches_does_not_change_the_gradient(tiny_model, zero):
    groups = single_groups()
    wanted = exact(trainer(tiny_model, *BF16, "learner.zero_stage=2"), groups)
    got = accumulated(trainer(tiny_model, *BF16, f"learner.zero_stage={zero}"), share(groups, MICRO_BATCHES))
    assert got.keys() == wanted.keys()
    difference = torch.cat([(got[name].reshape(-1) - wanted[name].reshape(-1)) for name in wanted])
    whole = torch.cat([value.reshape(-1) for value in wanted.values()])
    assert float(difference.norm() / whole.norm()) < 1e-4


def test_a_gradient_that_is_not_finite_is_reported_and_moves_nothing(tiny_model):
    made = trainer(tiny_model, *BF16)
    before = weights(made)
    wrong = batch_of_groups("a")
    wrong[0].advantages[0] = np.nan
    first = made.step(share(wrong, 1), IMAGES)
    assert first["skipped"] == 1.0
    assert all(torch.equal(before[name], after) for name, after in weights(made).items())
    moved, metrics = update(made, share(batch_of_groups("a"), 1))
    assert metrics["skipped"] == 0.0
    assert moved.any()
