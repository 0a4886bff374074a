"""What the learner publishes is what vLLM takes, at the sizes of real models too: every name and
every shape, by a round trip.

The models are built on the meta device (or as fake tensors), so that 7B parameters cost no memory.
What travels is names, shapes and dtypes; the check that nothing was left out is the rollout
worker's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from rapo.config import LoRAConfig, TinyModelConfig
from rapo.errors import WeightError
from rapo.families.registry import family_of
from rapo.families.tiny_model import build_tiny_model
from rapo.models.completeness import check_parameters, stored_names
from rapo.models.folder import check_model_folder
from rapo.policy.lora import add_lora, dense_parameters
from rapo.policy.weight_packing import model_tensors, pack, unpack
from rapo.records import WeightManifest
from tests.integration import bare_engine
from tests.integration.bare_engine import Described
from tests.limits import PATIENCE_S
from tests.real_families import REAL, UNREAD
from tests.sparse_folder import empty_model, published_shapes, write_folder

pytestmark = pytest.mark.integration

SIZES = ("embedded", "3B", "7B")


@dataclass(frozen=True)
class Figures:
    """The published architecture of a Qwen2.5-VL, as far as shapes and names depend on it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    def config(self) -> Qwen2_5_VLConfig:
        return Qwen2_5_VLConfig(
            architectures=["Qwen2_5_VLForConditionalGeneration"],
            dtype="bfloat16",
            tie_word_embeddings=self.tied,
            text_config={
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden,
                "intermediate_size": self.intermediate,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "max_position_embeddings": 128_000,
                "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
                "tie_word_embeddings": self.tied,
            },
            vision_config={
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": self.hidden,
                "fullatt_block_indexes": [7, 15, 23, 31],
                "window_size": 112,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
        )


QWEN = {
    "3B": Figures(2048, 11008, 36, 16, 2, 151_936, tied=True),
    "7B": Figures(3584, 18944, 28, 28, 4, 152_064, tied=False),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per size; those of the large ones hold a `config.json` only."""
    made = {size: tmp_path_factory.mktemp(size) for size in SIZES}
    build_tiny_model(made["embedded"], TinyModelConfig(), 0, ["the light is even; "])
    for size, figures in QWEN.items():
        figures.config().save_pretrained(made[size])
    return made


@pytest.fixture(scope="module")
def engine() -> Iterator[Callable[..., Any]]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=bare_engine.initialize) as child:
        yield lambda call, *arguments: child.submit(call, *arguments).result(timeout=PATIENCE_S)


@cache
def published(folder: Path) -> list[Described]:
    """What the learner of this model publishes."""
    with FakeTensorMode():
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            AutoConfig.from_pretrained(folder), dtype=torch.bfloat16
        )
        return [described(name, tensor) for name, tensor in model_tensors(model) if tensor is not None]


def described(name: str, tensor: torch.Tensor) -> Described:
    return name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def elements(tensors: list[Described]) -> int:
    return sum(torch.Size(shape).numel() for _, shape, _ in tensors)


@pytest.mark.parametrize("size", SIZES)
def test_the_engine_takes_all_that_is_published_and_nothing_is_left(
    folders: dict[str, Path], engine: Callable[..., Any], size: str
) -> None:
    tensors = published(folders[size])
    if size in QWEN:
        wanted = {"3B": 3_754_622_976, "7B": 8_292_166_656}
        assert elements(tensors) == wanted[size], "not the published architecture"
        assert ("lm_head.weight" in {name for name, _, _ in tensors}) == (not QWEN[size].tied)
    assigned, parameters, room = engine(bare_engine.load, folders[size], tensors)
    assert assigned == parameters
    assert elements(tensors) == room, "with every parameter full, more elements than room would be tensors left over"


@pytest.mark.parametrize("name", REAL)
def test_the_engine_takes_all_that_other_families_publish(
    engine: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    config, millions = REAL[name]
    write_folder(tmp_path, config, published_shapes(config))
    check_model_folder(tmp_path)
    check_parameters(tmp_path)
    # Generic families are published under the names of their folder.
    names = stored_names(tmp_path) if family_of(config).keeps_stored_names else {}
    tensors = [
        described(names.get(path, path), parameter) for path, parameter, _ in dense_parameters(empty_model(config))
    ]
    assert round(elements(tensors) / 1e6) == millions, "not the published architecture"
    assigned, parameters, room = engine(bare_engine.load, tmp_path, tensors)
    assert assigned == parameters
    assert elements(tensors) - UNREAD.get(name, 0) == room


@pytest.mark.release
@pytest.mark.parametrize("name", REAL)
def test_every_name_and_shape_comes_through_pack_and_unpack(name: str) -> None:
    """The tensors are views of the same zeros."""
    model = empty_model(REAL[name][0])
    tensors = [described(path, parameter) for path, parameter, _ in dense_parameters(model)]

    zeros = torch.zeros(max(elements([one]) for one in tensors), dtype=torch.bfloat16)
    assert {dtype for _, _, dtype in tensors} == {"bfloat16"}

    def packed() -> Iterator[Any]:
        views = ((path, zeros[: torch.Size(shape).numel()].view(shape)) for path, shape, _ in tensors)
        return pack(views, 3, 2**29)

    (manifest,) = [part for part in packed() if isinstance(part, WeightManifest)]
    chunks = (part for part in packed() if not isinstance(part, WeightManifest))
    assert [described(path, tensor) for path, tensor in unpack(manifest, chunks, views=True)] == tensors


@pytest.mark.parametrize("size", SIZES)
def test_lora_publishes_the_same(folders: dict[str, Path], size: str) -> None:
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            AutoConfig.from_pretrained(folders[size]), dtype=torch.bfloat16
        )
        add_lora(model, LoRAConfig(rank=16), seed=0)
        # `model_tensors` without its last step, as what is on the meta device cannot be brought to
        # the CPU.
        dense = [
            described(name, parameter if adapter is None else adapter.merge(parameter))
            for name, parameter, adapter in dense_parameters(model)
        ]
    layers = model.config.get_text_config().num_hidden_layers
    assert sum(adapter is not None for _, _, adapter in dense_parameters(model)) == 7 * layers
    assert dense == published(folders[size])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "model.language_model.layers.1.self_attn.v_proj.weight",
            r"in part \['[\w.]*layers\.1\.self_attn\.qkv_proj'\]",
        ),
        ("model.language_model.layers.1.self_attn.k_proj.bias", r"in part \['[\w.]*layers\.1\.self_attn\.qkv_proj'\]"),
        ("model.language_model.layers.0.mlp.up_proj.weight", r"in part \['[\w.]*layers\.0\.mlp\.gate_up_proj'\]"),
        (
            "model.language_model.layers.1.mlp.down_proj.weight",
            r"missing \['[\w.]*layers\.1\.mlp\.down_proj\.weight'\]",
        ),
        ("model.language_model.embed_tokens.weight", r"missing \['[\w.]*embed_tokens\.weight'\]"),
        ("model.visual.blocks.1.attn.qkv.bias", r"visual\.blocks\.1\.attn\.qkv"),
        ("model.visual.merger.mlp.2.weight", r"visual\.merger\.mlp\.2"),
    ],
)
@pytest.mark.parametrize("size", ["embedded", "7B"])
def test_a_tensor_that_is_missing_renamed_or_misshapen_is_named(
    folders: dict[str, Path], engine: Callable[..., Any], size: str, name: str, said: str
) -> None:
    tensors = published(folders[size])
    (index,) = [i for i, tensor in enumerate(tensors) if tensor[0] == name]
    rest = [*tensors[:index], *tensors[index + 1 :]]
    with pytest.raises(WeightError, match=f"did not get every parameter.*{said}"):
        engine(bare_engine.load, folders[size], rest)

    renamed = name.replace(".weight", ".weihgt").replace(".bias", ".bais")
    with pytest.raises(WeightError, match=rf"does not take {renamed}"):
        engine(bare_engine.load, folders[size], [*rest, (renamed, *tensors[index][1:])])

    shape = (tensors[index][1][0] // 2, *tensors[index][1][1:])
    with pytest.raises(WeightError, match=rf"does not take {name}"):
        engine(bare_engine.load, folders[size], [*rest, (name, shape, "bfloat16")])

    assigned, parameters, _ = engine(bare_engine.load, folders[size], tensors)
    assert assigned == parameters, "a refused version leaves nothing behind"


def test_an_untied_head_is_needed(folders: dict[str, Path], engine: Callable[..., Any]) -> None:
    tensors = [tensor for tensor in published(folders["7B"]) if tensor[0] != "lm_head.weight"]
    with pytest.raises(WeightError, match=r"1 missing \['[\w.]*lm_head\.weight'\]"):
        engine(bare_engine.load, folders["7B"], tensors)


def test_the_names_of_a_saved_model_load_as_well(folders: dict[str, Path], engine: Callable[..., Any]) -> None:
    with safe_open(folders["embedded"] / "model.safetensors", "pt") as file:
        tensors = [(name, tuple(file.get_slice(name).get_shape()), "float32") for name in file.keys()]  # noqa: SIM118
    assert {name for name, _, _ in tensors} != {name for name, _, _ in published(folders["embedded"])}
    assigned, parameters, room = engine(bare_engine.load, folders["embedded"], tensors)
    assert assigned == parameters
    assert elements(tensors) == room
