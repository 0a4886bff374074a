"""Families: for each of them packed completions equal rows, rows equal the plain model, and weights
come back by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from builders import CLAUSES, gathered, make_image
from PIL import Image
from transformers import Gemma4Config, PretrainedConfig, PreTrainedModel, Qwen2_5_VLConfig
from transformers.models.smolvlm import processing_smolvlm

from cluster.cli.check import problems, warnings
from rapo.config import LoRAConfig, load_config
from rapo.datasets.check import DataCheck
from rapo.errors import ModelError
from rapo.families.family import Family, as_processed, place_features, vision_parameters
from rapo.families.registry import family_of
from rapo.models.completeness import check_parameters, read_config, stored_names
from rapo.models.weight_files import stored_tensors
from rapo.policy.attention import flash
from rapo.policy.batch import GroupBatch, collate
from rapo.policy.export import write_model
from rapo.policy.forward import GroupPolicy, Packing
from rapo.policy.lora import add_lora, dense_parameters
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model
from rapo.policy.weight_packing import model_tensors, pack
from rapo.records import WeightManifest
from tests.flash_stand_in import stand_in
from tests.tiny_families import PUBLISHED_NAMES, TINY, build_tiny

if TYPE_CHECKING:
    from vllm.multimodal.inputs import MultiModalFeatureSpec

WINDOWED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PACKING = (*WINDOWED, "internvl", "idefics3", "smolvlm")
ROWS = {kind: f"no shared prefixes for the family '{kind}'" for kind in ("llava", "llava_onevision", "gemma3")}
TOLERANCE = 1e-5
SIZES = ((84, 84), (200, 60), (60, 150))
LENGTHS = (1, 7, 4)


@dataclass(frozen=True)
class Tiny:
    folder: Path
    processor: PolicyProcessor
    model: PreTrainedModel


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny model of a family with larger weights. With fresh weights attention is nearly uniform,
    so that positions hardly matter."""
    folder = build_tiny(request.param, tmp_path_factory.mktemp(request.param) / "model", CLAUSES)
    model = load_model(folder, "float32")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 1.2 / math.sqrt(parameter[0].numel()), generator=generator)
    return Tiny(folder, PolicyProcessor(folder), model)


def batch_of(tiny: Tiny) -> GroupBatch:
    rng = np.random.default_rng(0)
    prepared = [tiny.processor.prepare(make_image(*size, seed=i)) for i, size in enumerate(SIZES)]
    completions = [[rng.integers(20, 60, n) for n in LENGTHS] for _ in SIZES]
    return collate(prepared, completions, tiny.processor.tokenizer.pad_token_id)


def run(tiny: Tiny, packing: Packing) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probs, and the gradients of a weighted sum of them."""
    policy = GroupPolicy(tiny.model, tiny.processor.banned_token_ids, packing=packing)
    tiny.model.zero_grad(set_to_none=True)
    log_probs, _, _ = policy(batch_of(tiny))
    (log_probs * torch.linspace(-1.0, 2.0, len(log_probs))).sum().backward()
    return log_probs.detach(), {name: p.grad for name, p in tiny.model.named_parameters() if p.grad is not None}


def test_completions_share_their_prefix_or_it_is_said_why_not(tiny: Tiny) -> None:
    policy = GroupPolicy(tiny.model, [], packing="prefix")
    kind = tiny.model.config.model_type
    if kind in PACKING:
        assert (policy.packing, policy.fallback) == ("prefix", None)
    else:
        assert policy.packing == "rows"
        assert policy.fallback is not None
        assert ROWS[kind] in policy.fallback


def test_the_check_warns_where_no_prefix_is_shared(tiny: Tiny) -> None:
    def said(packing: Packing) -> list[str]:
        overrides = (f"policy.model={tiny.folder}", f"learner.packing={packing}", f"coldstart.packing={packing}")
        return [line for line in warnings(load_config(None, overrides), DataCheck()) if "a prompt of its own" in line]

    kind = tiny.model.config.model_type
    assert [line.endswith(ROWS.get(kind, "?")) for line in said("prefix")] == ([True] if kind in ROWS else [])
    assert said("rows") == []


def test_the_check_looks_at_the_cold_start_as_well(tiny: Tiny) -> None:
    settings = [f"policy.model={tiny.folder}", "learner.packing=rows", "coldstart.packing=prefix"]
    said = [line for line in warnings(load_config(None, settings), DataCheck()) if "a prompt of its own" in line]
    assert ["than coldstart.packing = 'prefix'" in line for line in said] == (
        [True] if tiny.model.config.model_type in ROWS else []
    )


def test_images_that_a_configuration_lets_see_ahead_need_gpus() -> None:
    seen = {ahead: Gemma4Config(text_config={"use_bidirectional_attention": ahead}) for ahead in (None, "vision")}
    Family().check_engine(seen[None], on_gpu=False)
    Family().check_engine(seen["vision"], on_gpu=True)
    with pytest.raises(ModelError, match="see one another"):
        Family().check_engine(seen["vision"], on_gpu=False)


def test_layers_that_do_not_see_all_of_a_prefix_and_dropout_lead_to_rows() -> None:
    config = Qwen2_5_VLConfig()
    family, text = family_of(config), config.get_text_config()
    assert family.unpackable(config) is None
    text.layer_types = ["sliding_attention", *text.layer_types[1:]]
    assert "layers with sliding_attention" in str(family.unpackable(config))
    text.layer_types = ["full_attention"] * len(text.layer_types)
    text.attention_dropout = 0.1
    assert "an attention dropout of 0.1" in str(family.unpackable(config))


def test_features_and_image_tokens_must_be_as_many() -> None:
    is_image = torch.tensor([False, True, True])
    assert place_features(torch.zeros(3, 2), is_image, torch.ones(2, 2)).sum() == 4
    for count in (1, 3):
        with pytest.raises(ModelError, match=f"makes {count} features, and the prompts have 2 image tokens"):
            place_features(torch.zeros(3, 2), is_image, torch.ones(count, 2))


def test_a_family_that_vllm_computes_otherwise_on_cpus_needs_gpus(tiny: Tiny) -> None:
    config, family = read_config(tiny.folder), tiny.processor.family
    family.check_engine(config, on_gpu=True)
    cases = {
        (): True,
        ("rollout.gpus=1",): True,
        ("rollout.gpus=1", "serve.gpus=1"): False,
        ("rollout.gpus=1", "serve.demo_images=0"): False,
    }
    for settings, refused in cases.items():
        found = problems(load_config(None, [f"policy.model={tiny.folder}", *settings]), ("rapo",), DataCheck())
        said = [line for line in found if "see one another" in line and "rollout.gpus and serve.gpus" in line]
        assert bool(said) == (refused and config.model_type == "gemma3"), settings


def test_packed_completions_equal_rows_in_log_probs_and_gradients(tiny: Tiny) -> None:
    rows, row_gradients = run(tiny, "rows")
    packed, gradients = run(tiny, "prefix")
    assert float((packed - rows).abs().max() / rows.abs().max()) < TOLERANCE
    assert gradients.keys() == row_gradients.keys()
    for name, gradient in row_gradients.items():
        size = gradient.norm()
        # A bias of keys has no effect on softmax attention: its gradient is rounding.
        assert float((gradients[name] - gradient).norm()) < TOLERANCE * max(float(size), 1.0), name


@pytest.mark.parametrize("packing", ["prefix", "rows"])
def test_flash_attention_gives_the_same(tiny: Tiny, packing: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for the kernels: two calls for each layer of packed text, and one for each
    layer of a tower that works on windows."""
    plain, plain_gradients = run(tiny, packing)
    monkeypatch.setattr(flash, "takes", lambda query, dropout: not dropout)
    with stand_in() as calls:
        flashed, gradients = run(tiny, packing)
    assert float((flashed - plain).abs().max() / plain.abs().max()) < TOLERANCE
    for name, gradient in plain_gradients.items():
        assert float((gradients[name] - gradient).norm()) < TOLERANCE * max(float(gradient.norm()), 1.0), name
    config = tiny.model.config
    packed = packing == "prefix" and config.model_type in PACKING
    expected = 2 * config.get_text_config().num_hidden_layers if packed else 0
    if config.model_type in WINDOWED:
        expected += config.vision_config.depth
    assert (calls.count("forward"), calls.count("backward")) == (expected, expected)


@pytest.mark.parametrize("packing", ["prefix", "rows"])
def test_log_probs_are_those_of_the_plain_model_on_the_processors_inputs(tiny: Tiny, packing: Packing) -> None:
    """One completion at a time, behind what transformers' processor makes of prompt and image."""
    processor, batch = tiny.processor, batch_of(tiny)
    expected = []
    for index, size in enumerate(SIZES):
        made = processor.processor(
            text=[processor.prompt],
            images=[make_image(*size, seed=index)],
            add_special_tokens=False,
            return_tensors="pt",
        )
        prompt, mask = made.pop("input_ids"), made.pop("attention_mask")
        for k, length in enumerate(LENGTHS):
            own = batch.completion_ids[index, k, :length][None]
            tail = torch.zeros_like(own)
            types = {name: torch.cat([marks, tail], 1) for name, marks in made.items() if marks.shape == prompt.shape}
            with torch.no_grad():
                logits = tiny.model(
                    input_ids=torch.cat([prompt, own], 1),
                    attention_mask=torch.cat([mask, tail + 1], 1),
                    **{**made, **types},
                ).logits[0, prompt.shape[1] - 1 : -1]
            logits[:, processor.banned_token_ids] -= 100.0
            expected.append(torch.log_softmax(logits, -1).gather(1, own.T)[:, 0])
    with torch.no_grad():
        log_probs = GroupPolicy(tiny.model, processor.banned_token_ids, packing=packing)(batch)[0]
    whole = torch.cat(expected)
    assert float((log_probs - whole).abs().max() / whole.abs().max()) < TOLERANCE


def test_weights_come_back_by_name_and_the_folder_is_whole(tiny: Tiny, tmp_path: Path) -> None:
    tensors = gathered(model_tensors(tiny.model))
    *chunks, manifest = [*pack(tensors.items(), 3, 2**20)]
    assert isinstance(manifest, WeightManifest)
    write_model(tmp_path / "out", tiny.folder, manifest, chunks)
    check_parameters(tmp_path / "out")
    for name, tensor in gathered(model_tensors(load_model(tmp_path / "out", "float32"))).items():
        assert torch.equal(tensor, tensors[name]), name
    if tiny.model.config.model_type in PUBLISHED_NAMES:
        assert stored_tensors(tmp_path / "out").keys() == stored_tensors(tiny.folder).keys()
        named = stored_names(tiny.folder)
        assert {named.get(name, name) for name in tensors} == stored_tensors(tiny.folder).keys() != tensors.keys()
    assert PolicyProcessor(tmp_path / "out").prompt_token_ids == tiny.processor.prompt_token_ids


def test_vision_and_text_are_told_apart(tiny: Tiny) -> None:
    """What is frozen is the tower and its projector; what LoRA adapts is the text model."""
    model = load_model(tiny.folder, "float32")
    names = {id(p): name for name, p in model.named_parameters()}
    vision = {names[id(p)] for p in vision_parameters(GroupPolicy(model, []).family, model)}
    words = ("visual", "vision", "projector", "connector", "image_newline")
    assert vision == {name for name in names.values() if any(word in name for word in words)}
    add_lora(model, LoRAConfig(rank=2), seed=0)
    adapted = {name for name, _, adapter in dense_parameters(model) if adapter is not None}
    assert len(adapted) == 7 * model.config.get_text_config().num_hidden_layers
    assert not adapted & vision


def test_no_special_token_of_the_family_can_be_sampled(tiny: Tiny) -> None:
    banned, tokenizer = set(tiny.processor.banned_token_ids), tiny.processor.tokenizer
    assert tiny.processor.image_token_id in banned
    assert banned >= set(tokenizer.all_special_ids) - set(tiny.processor.stop_token_ids)


def test_limits_of_pixels_are_kept_or_refused(tiny: Tiny) -> None:
    image = make_image(200, 200)
    if tiny.model.config.model_type.startswith("qwen"):
        small = PolicyProcessor(tiny.folder, max_pixels=64 * 64)
        assert small.prepare(image).prompt_ids.size < tiny.processor.prepare(image).prompt_ids.size
    else:
        with pytest.raises(ModelError, match=r"policy\.max_pixels: the image processor of a .* has no limit"):
            PolicyProcessor(tiny.folder, max_pixels=64 * 64)


def test_the_engine_gets_the_learners_prompt_or_nothing(tiny: Tiny) -> None:
    """Families that leave an image to vLLM compare its prompt with the learner's."""
    render, image = FakeRender(tiny.processor, []), make_image(90, 70)
    pixels, own = np.array(image), tiny.processor.prepare(image).prompt_ids.tolist()
    assert tiny.processor.family.encode(tiny.processor, pixels, "key", render).prompt_ids == own
    if tiny.model.config.model_type.startswith("qwen"):
        return
    other = FakeRender(tiny.processor, [tiny.processor.image_token_id])
    for _ in range(2):  # a size that was refused once is refused again
        with pytest.raises(
            ModelError, match=r"has \d+ tokens \((\d+) of the image\), that of transformers \d+ \(\d+\)"
        ):
            tiny.processor.family.encode(tiny.processor, pixels, "key", other)


@pytest.mark.parametrize("size", [(90, 70), (641, 480), (40, 300), (4, 60)])
def test_pixels_give_what_the_image_gives(tiny: Tiny, size: tuple[int, int]) -> None:
    """The image processor gets the form in which it works; to the bit, that changes nothing."""
    image = make_image(*size)
    as_image = tiny.processor.processor(text=[tiny.processor.prompt], images=[image], return_tensors="np")
    render = FakeRender(tiny.processor, [])
    tiny.processor.family.encode(tiny.processor, np.array(image), "key", render)
    for taken in (*render.taken, as_processed(tiny.processor, np.array(image))):
        as_taken = tiny.processor.processor(text=[tiny.processor.prompt], images=[taken], return_tensors="np")
        assert as_taken.keys() == as_image.keys()
        assert all(np.array_equal(as_taken[name], as_image[name]) for name in as_image)
    assert len(render.taken) == (not tiny.model.config.model_type.startswith("qwen"))
    for taken in render.taken:  # four columns would be taken for channels
        assert isinstance(taken, torch.Tensor) == (tiny.processor.family.renders_tensors and size[0] > 4)


class FakeRender:
    """Stands for vLLM's processor: the learner's prompt and `more` tokens. `taken` are the images
    as it got them."""

    def __init__(self, processor: PolicyProcessor, more: list[int]) -> None:
        self._processor, self._more = processor, more
        self.compared: set[tuple[int, ...]] = set()
        self.taken: list[Image.Image | torch.Tensor] = []

    def __call__(
        self, prompt_ids: list[int], image: Image.Image | torch.Tensor, key: str
    ) -> tuple[list[int], MultiModalFeatureSpec]:
        self.taken.append(image)
        made = self._processor.processor(
            text=[self._processor.prompt], images=[image], add_special_tokens=False, return_tensors="np"
        )
        return [*made["input_ids"][0].tolist(), *self._more], cast("MultiModalFeatureSpec", None)


def test_a_processor_whose_package_is_missing_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_tiny("smolvlm", tmp_path / "model", CLAUSES)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ModelError, match=r"cannot make the processor in .*pip install num2words"):
        PolicyProcessor(folder)


def test_a_model_that_changes_its_logits_behind_the_head_is_refused() -> None:
    config = PretrainedConfig(final_logit_softcapping=30.0)
    with pytest.raises(ModelError, match=r"changes its logits .*\(final_logit_softcapping\)"):
        Family().check(config)
    Family().check(PretrainedConfig(final_logit_softcapping=None, logit_scale=1.0))
