"""Plans against what was counted and measured: parameters, states, activations; and the shipped
configurations against their cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from rapo.config import load_config
from rapo.errors import ConfigError, ModelError
from rapo.plan.cards import CARDS, card_named
from rapo.plan.estimate import Estimate, estimate
from rapo.plan.memory import FIXED, Sampling, Training, snapshot_bytes
from rapo.plan.model_shape import ModelShape
from rapo.plan.network import Network

ROOT = Path(__file__).resolve().parents[3]
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14, "temporal_patch_size": 2}
SEVEN = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
THREE = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip


#: Qwen2-VL-2B, whose vision tower calls its own width `embed_dim`, and the text of Qwen3-VL-4B,
#: whose heads are wider than the model's width shared out.
TWO = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
TWO_VISION = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "patch_size": 14, "temporal_patch_size": 2}
FOUR = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": VISION, **SEVEN}))
    return tmp_path


def shape_of(tmp_path: Path, text: Mapping[str, object]) -> ModelShape:
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": VISION, "text_config": text}))
    return ModelShape.read(tmp_path)


@pytest.mark.parametrize(("text", "count"), [(SEVEN, 8_292_166_656), (THREE, 3_754_622_976)])
def test_parameters_are_those_of_the_published_models(tmp_path, text, count):
    assert shape_of(tmp_path, text).parameters == count


def test_other_qwens_are_counted_by_the_sizes_that_they_have(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": TWO_VISION, **TWO}))
    assert ModelShape.read(tmp_path).parameters == pytest.approx(2_208_985_600, rel=1e-3)
    four = shape_of(tmp_path, FOUR)
    assert four.text_parameters == pytest.approx(4_022_468_096, rel=1e-3)
    assert four.kv_bytes_per_token(2) == 36 * 2 * 8 * 128 * 2


def test_a_patch_may_be_named_by_both_of_its_sides(tmp_path):
    vision = {"patch_size": [14, 14], "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": vision, "text_config": FOUR}))
    shape = ModelShape.read(tmp_path)
    assert (shape.patch, shape.vision_layers) == (14, 24)


def test_parameters_are_those_of_the_embedded_model(tiny_model):
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rapo.config import TinyModelConfig

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_model)
    count = sum(p.numel() for p in model.parameters())
    assert ModelShape.read(tiny_model).parameters == count
    tiny = TinyModelConfig(hidden_size=64, text_layers=2, vocabulary=384)
    assert ModelShape.embedded(tiny).parameters == count


def test_a_folder_that_says_too_little_is_named(tmp_path):
    with pytest.raises(ModelError, match="does not describe a model"):
        ModelShape.read(tmp_path)


def learner(shape: ModelShape, *, offload: bool = False, lora_rank: int = 0) -> Training:
    return Training(shape, 4, 3, True, offload, False, False, lora_rank, True, 1596, 262144)


def test_states_are_the_measured_bytes_per_parameter(tmp_path):
    """In a snapshot 12 bytes a parameter; beside it 2 of the weights and 4 of the gradients."""
    shape = shape_of(tmp_path, SEVEN)
    states = learner(shape).state_bytes()
    assert snapshot_bytes(learner(shape)) == pytest.approx(99.5e9, rel=1e-3)
    assert {name: round(size / 1e9, 2) for name, size in states.items()} == {
        "parameters": 4.15, "gradients": 8.29, "optimizer": 24.88, "host": 0.0,
    }  # fmt: skip
    offloaded = learner(shape, offload=True).state_bytes()
    assert (offloaded["optimizer"], offloaded["host"]) == (0.0, states["optimizer"])
    adapters = learner(shape, lora_rank=16)
    assert snapshot_bytes(adapters) < 0.01 * snapshot_bytes(learner(shape))


def test_activations_are_those_measured_at_the_width_of_7b(tmp_path):
    """257 to 264 KiB of a token and layer, and 7 KiB with checkpointing."""
    shape = shape_of(tmp_path, SEVEN)
    plain, saved = (
        shape.activation_bytes_per_token(2, checkpointing=flag) / shape.layers / 1024 for flag in (False, True)
    )
    assert 257 <= plain <= 264
    assert saved == 7


def test_activations_are_those_of_a_layer_on_this_machine():
    """What autograd keeps of a text layer, by storage, against the formula."""
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLRotaryEmbedding

    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 8,
            "num_key_value_heads": 2, "vocab_size": 64, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        }
    ).text_config  # fmt: skip
    config._attn_implementation = "sdpa"
    layer = Qwen2_5_VLDecoderLayer(config, 0).bfloat16().train()
    tokens = 512
    hidden = torch.randn(1, tokens, 256, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(tokens).expand(3, 1, -1)
    rotary = Qwen2_5_VLRotaryEmbedding(config)(hidden, positions)
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(hidden, position_embeddings=rotary, attention_mask=None, position_ids=positions)
    shape = ModelShape(256, 1024, 1, 8, 2, 64, False, 64, 128, 1, 14, 2)
    assert sum(kept.values()) / tokens == pytest.approx(shape.layer_bytes_per_token(2), rel=0.2)


def plan(config: str, folder: Path, *overrides: str) -> Estimate:
    return estimate(
        load_config(ROOT / "configs" / config, [f"policy.model={folder}", *overrides]),
        CARDS["H100-80"],
        300,
        Network(),
    )


@pytest.mark.parametrize("config", ["gpu-1x8.toml", "gpu-8x8.toml", "paper.toml"])
def test_the_shipped_configurations_fit_their_cards(folder, config):
    found = plan(config, folder)
    assert {role.role: role.fits for role in found.memory} == {"coldstart": True, "learner": True, "rollout": True}
    assert all(role.total < 0.95 * role.limit for role in found.memory)
    assert found.traffic["snapshot, GPUs to object store"] < 0.1 * 99.5e9
    assert found.sequences > 100


def test_what_saves_memory_is_seen(folder):
    whole = "learner.micro_batch_tokens=17968"  # 4 groups of 4 answers at full length
    plain = ["learner.gradient_checkpointing=false", whole]

    def total(*overrides):
        return {role.role: role for role in plan("gpu-1x8.toml", folder, *overrides).memory}["learner"].total

    assert total(*plain) > CARDS["H100-80"].memory
    assert total(whole) < total(*plain)
    assert total(whole, "learner.offload=optimizer") == pytest.approx(total(whole) - 24.88e9, rel=1e-3)
    assert total(whole, "learner.lora.rank=16") < total(whole)


def test_rows_take_more_time_than_shared_prefixes(folder):
    def learner(packing):
        return plan("gpu-1x8.toml", folder, f"learner.packing={packing}").parts[1]

    assert learner("rows").name == "learner"
    assert learner("rows").seconds > 1.2 * learner("prefix").seconds


def test_sides_that_take_turns_have_the_whole_card_each_and_leave_little_on_it(folder):
    gpus = ("learner.workers=8", "rollout.workers=8", "rollout.gpus=1", "rollout.engine.tensor_parallel_size=1")
    apart = plan("gpu-1x8.toml", folder, *gpus)
    shared = plan("gpu-1x8.toml", folder, *gpus, "rapo.max_staleness=0", "rollout.placement=colocate")
    for role in (1, 2):
        assert shared.memory[role].total == pytest.approx(apart.memory[role].total + FIXED), "a peak, not a sum"
        assert shared.memory[role].limit == apart.memory[role].limit
        assert shared.memory[role].fits
    items = apart.memory[1].items
    parked = shared.host["learner, parked tensors of a rank"]
    assert parked == pytest.approx(items["parameters"] + items["optimizer"] + items["reference"])
    assert shared.traffic["parking, GPUs to hosts and back"] == pytest.approx(16 * parked)
    assert shared.step_seconds == pytest.approx(sum(part.seconds for part in shared.parts))
    assert shared.step_seconds > apart.step_seconds


def test_a_snapshot_after_every_step_is_seen(folder):
    every = plan("gpu-1x8.toml", folder, "learner.snapshot_every=1")
    by_time = plan("gpu-1x8.toml", folder)
    assert every.traffic["snapshot, GPUs to object store"] == pytest.approx(99.5e9, rel=1e-3)
    assert every.step_seconds > by_time.step_seconds + 5


def test_second_copies_of_snapshots_take_room_and_bytes_where_ranks_have_several_nodes(folder):
    held, into = "learner, second copy of a snapshot on a node of ranks", "snapshot, into the next node of ranks"
    found = plan("gpu-8x8.toml", folder, "learner.snapshot_every=10")
    ranks = load_config(ROOT / "configs/gpu-8x8.toml").learner.workers
    assert found.host[held] == pytest.approx(99.5e9 / (ranks / 8), rel=1e-3)
    assert found.traffic[into] == pytest.approx(found.host[held] / 10)
    for config, *off in (("gpu-8x8.toml", "learner.snapshot_buddy=false"), ("gpu-1x8.toml",)):
        without = plan(config, folder, *off)
        assert held not in without.host
        assert into not in without.traffic


def test_a_split_worker_holds_its_part(tmp_path):
    shape = shape_of(tmp_path, SEVEN)
    one, four = (Sampling(shape, parts, True, 0.9, 85.5e9, 2048) for parts in (1, 4))
    assert four.gpu_bytes()["weights"] == one.gpu_bytes()["weights"] / 4
    assert four.sequences > 4 * one.sequences


def test_a_card_without_figures_is_named():
    with pytest.raises(ConfigError, match="H100-80"):
        card_named("RTX")


def test_the_command_says_what_does_not_fit(folder, capsys):
    from cluster.cli.plan_table import show_plan

    settings = [f"policy.model={folder}"]
    assert show_plan(ROOT / "configs" / "gpu-1x8.toml", settings, "H100-80", 300, Network())
    assert "8.29 billion parameters" in capsys.readouterr().out
    assert not show_plan(ROOT / "configs" / "gpu-1x8.toml", settings, "L4", 300, Network())
    assert "DOES NOT FIT" in capsys.readouterr().out
