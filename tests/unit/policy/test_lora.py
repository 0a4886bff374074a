"""LoRA in the learner, in a world of one process: trained parameters, published weights and the KL
reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders import gathered
from test_trainer import IMAGES, batch_of_groups, share, trainer, update
from torch import nn

from rapo.config import LoRAConfig, load_config
from rapo.errors import ConfigError, ModelError
from rapo.policy.lora import Adapter, add_lora, without_adapters
from rapo.policy.trainer import load_model
from rapo.policy.weight_packing import model_tensors, unpack

pytestmark = pytest.mark.usefixtures("world")

LORA = ("learner.lora.rank=4", "learner.lora.alpha=8")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tiny_model):
    return gathered(model_tensors(load_model(tiny_model, "float32")))


def parameters(made):
    return {name: p.detach().clone() for name, p in made.engine.module.model.named_parameters()}


def published(made):
    *chunks, manifest = made.publish(made.version)
    return dict(unpack(manifest, chunks))


def is_target(name):
    return ".language_model." in name and name.split(".")[-2] in TARGETS and name.endswith(".weight")


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_only_adapters_train_and_merged_weights_are_published(tiny_model, base, zero):
    made = trainer(tiny_model, *LORA, f"learner.zero_stage={zero}", "learner.freeze_vision=true")
    fresh = published(made)
    assert list(fresh) == list(base)
    assert all(torch.equal(fresh[name].view(torch.int32), base[name].view(torch.int32)) for name in base)

    before = parameters(made)
    metrics = made.step(share(batch_of_groups(), 2), IMAGES)
    metrics |= made.step(share(batch_of_groups(), 1), IMAGES)
    assert all(np.isfinite(value) for value in metrics.values())
    after = published(made)
    assert list(after) == list(base)
    moved = {name for name in base if not torch.equal(after[name], base[name])}
    assert moved == {name for name in base if is_target(name)}
    if zero == 3:
        return  # parameters lie in shards
    now = parameters(made)
    assert {name for name in now if not torch.equal(now[name], before[name])} == {n for n in now if ".lora_" in n}
    name = "model.language_model.layers.1.self_attn.q_proj"
    gain = 2.0 * now[f"{name}.lora_B.default.weight"] @ now[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(after[f"{name}.weight"], base[f"{name}.weight"] + gain)


@pytest.mark.parametrize("zero", [2, 3])
def test_bfloat16_is_published_as_bfloat16(tiny_model, zero):
    base = gathered(model_tensors(load_model(tiny_model, "bfloat16")))
    made = trainer(tiny_model, *LORA, "policy.dtype=bfloat16", f"learner.zero_stage={zero}", "rapo.loss.kl_beta=0.1")
    fresh = published(made)
    assert all(torch.equal(fresh[name].view(torch.int16), base[name].view(torch.int16)) for name in base)
    made.step(share(batch_of_groups(), 1), IMAGES)
    after = published(made)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert {name for name in base if not torch.equal(after[name], base[name])} == {n for n in base if is_target(n)}


def test_published_weights_compute_the_same_as_the_trained_adapters(tiny_model):
    """The learner's forward pass with adapters against a plain model with the published weights."""
    made = trainer(tiny_model, *LORA, "learner.lora.targets=['v_proj', 'down_proj']")
    made.step(share(batch_of_groups("ab"), 1), IMAGES)
    plain = load_model(tiny_model, "float32")
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = plain(input_ids=ids).logits
        plain.load_state_dict(published(made))
        wanted, trained = plain(input_ids=ids).logits, made.engine.module.model(input_ids=ids).logits
        with without_adapters(made.engine.module):
            reference = made.engine.module.model(input_ids=ids).logits
    torch.testing.assert_close(trained, wanted)
    assert (trained - before).abs().max() > 1e-3
    assert torch.equal(reference, before)


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_kl_is_measured_from_the_base_without_a_second_model(tiny_model, zero):
    groups = batch_of_groups("ab")
    kl = ("rapo.loss.kl_beta=0.1", f"learner.zero_stage={zero}")
    made = trainer(tiny_model, *LORA, *kl)
    assert made._reference is None
    assert made.step(share(groups, 1), IMAGES)["kl"] == pytest.approx(0.0, abs=1e-6)
    again = made.step(share(groups, 2), IMAGES)
    assert again["kl"] > 1e-4
    made.step(share([], 1, counted=groups), IMAGES)  # a rank without groups takes part

    copied = trainer(tiny_model, *LORA, *kl)
    copied._reference = copied._policy(str(tiny_model)).requires_grad_(requires_grad=False)
    copied.step(share(groups, 1), IMAGES)
    assert copied.step(share(groups, 2), IMAGES) == pytest.approx(again, rel=1e-5)


def test_gradient_checkpointing_trains_the_same_adapters(tiny_model):
    moved, metrics, passes = [], [], []
    for checkpointing in ("false", "true"):
        made = trainer(tiny_model, *LORA, "learner.packing=rows", f"learner.gradient_checkpointing={checkpointing}")
        calls: list[int] = []
        first = made.engine.module.model.model.language_model.layers[0].self_attn.q_proj.lora_A
        first.default.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        vector, sums = update(made, share(batch_of_groups(), 1))
        moved.append(vector)
        metrics.append(sums)
        passes.append(len(calls))
    assert passes == [1, 2], "the layer runs again in the backward pass"
    assert moved[0].any()
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)
    torch.testing.assert_close(moved[0], moved[1])


def test_adapters_come_from_the_runs_seed(tiny_model):
    state = torch.get_rng_state()
    one, same, other = (parameters(trainer(tiny_model, *LORA, f"run.seed={seed}")) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {n for n in one if ".lora_A." in n}


def test_merging_rounds_once():
    generator = torch.Generator().manual_seed(0)
    base, down, up = (torch.randn(shape, generator=generator).bfloat16() for shape in ((64, 48), (4, 48), (64, 4)))
    base[0, 0], up[0] = -0.0, 0.0
    merged = Adapter(nn.Parameter(down), nn.Parameter(up), 0.03).merge(base)
    exact = base.double() + 0.03 * up.double() @ down.double()
    assert merged.dtype == torch.bfloat16
    # bfloat16 has 8 significant bits: rounded once, the relative error is at most 2**-8, and a
    # float32 sum adds next to nothing.
    assert ((merged.double() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-6).all()
    assert torch.equal(merged[0].view(torch.int16), base[0].view(torch.int16)), "what gains nothing keeps its bits"


def test_an_unknown_target_is_named_with_what_there_is(tiny_model):
    with pytest.raises(ConfigError, match=r"learner\.lora\.targets\.1' = 'qkv_proj'.*'q_proj', 'k_proj'.*'down_proj'"):
        load_config(None, ["learner.lora.targets=['q_proj', 'qkv_proj']"])
    with pytest.raises(ConfigError, match=r"learner\.lora\.targets is empty"):
        load_config(None, ["learner.lora.targets=[]"])
    unchecked: Any = ("q_proj", "fc1")  # fc1 is none of the names that LoRAConfig admits
    settings = LoRAConfig.model_construct(rank=2, alpha=4.0, targets=unchecked)
    with pytest.raises(ModelError, match=r"names fc1,.*down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        add_lora(load_model(tiny_model, "float32"), settings, seed=0)
