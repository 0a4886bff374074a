"""PolicyProcessor: its inputs equal those of the full transformers processor."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from builders import make_image
from PIL import Image

from rapo.answers.parse import format_completion
from rapo.answers.prompts import SCORE_PROMPT
from rapo.config import load_config
from rapo.errors import ModelError
from rapo.families.qwen_vl import fitted
from rapo.families.tiny_prompt import SPECIAL_TOKENS
from rapo.models.prompt_length import prompt_length
from rapo.policy.batch import as_tensors
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model

SIZES = [(84, 84), (56, 84), (112, 56), (300, 40), (57, 99), (28, 28)]


@pytest.mark.parametrize("size", SIZES)
def test_prepared_inputs_equal_those_of_the_full_processor(processor, size):
    image = make_image(*size)
    full = processor.processor(text=[processor.prompt], images=[image], return_tensors="np")
    prepared = processor.prepare(image)
    np.testing.assert_array_equal(prepared.prompt_ids, full["input_ids"][0])
    assert prepared.tensors["patches"].dtype == np.uint8, "a quarter of the memory"
    merged = processor.family.merge([as_tensors(prepared)])
    np.testing.assert_array_equal(merged["pixel_values"].numpy(), full["pixel_values"])
    np.testing.assert_array_equal(merged["image_grid_thw"].numpy(), full["image_grid_thw"])
    np.testing.assert_array_equal(prepared.token_types["mm_token_type_ids"], full["mm_token_type_ids"][0])
    assert prepared.nbytes > prepared.tensors["patches"].nbytes


def test_patches_of_several_images_are_normalised_together_and_in_the_models_dtype(processor):
    images = [make_image(*size, seed=i) for i, size in enumerate(SIZES)]
    full = processor.processor.image_processor(images=images, return_tensors="pt")
    held = [as_tensors(processor.prepare(image)) for image in images]
    assert torch.equal(processor.family.merge(held)["pixel_values"], full["pixel_values"])
    half = [image | {"levels": image["levels"].bfloat16()} for image in held]  # as `GroupBatch.to` makes it
    assert torch.equal(processor.family.merge(half)["pixel_values"], full["pixel_values"].bfloat16())


def test_pixels_that_a_table_does_not_give_are_the_processors_own(tiny_model, monkeypatch):
    made = PolicyProcessor(tiny_model)
    resizer = type(made.processor.image_processor)
    normalize = resizer.rescale_and_normalize

    def blurred(self, images, *settings):
        return normalize(self, images, *settings).roll(1, dims=-1) / 2 + normalize(self, images, *settings) / 2

    monkeypatch.setattr(resizer, "rescale_and_normalize", blurred)
    other = PolicyProcessor(tiny_model)
    assert other.pixel_levels is None
    image = make_image(84, 56)
    full = other.processor.image_processor(images=[image], return_tensors="np")
    np.testing.assert_array_equal(other.prepare(image).tensors["pixel_values"], full["pixel_values"])
    assert made.pixel_levels is not None


@pytest.mark.parametrize("size", SIZES)
def test_there_are_as_many_pads_as_features(processor, tiny_model, size):
    prepared = processor.prepare(make_image(*size))
    with torch.no_grad():
        features = load_model(tiny_model, "float32").model.get_image_features(
            **processor.family.merge([as_tensors(prepared)]), return_dict=True
        )
    assert int((prepared.prompt_ids == processor.image_token_id).sum()) == len(torch.cat(list(features.pooler_output)))


@pytest.mark.parametrize("size", SIZES)
def test_encoded_patches_equal_those_of_the_image_processor(processor, size):
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    full = processor.processor.image_processor(
        images=[image], do_rescale=False, do_normalize=False, return_tensors="np"
    )
    made = processor.family.encode(processor, pixels, "key", None)
    np.testing.assert_array_equal(made.tensors["pixel_values"], full["pixel_values"])
    np.testing.assert_array_equal(made.tensors["image_grid_thw"], full["image_grid_thw"][0])
    assert made.tensors["pixel_values"].flags.c_contiguous


def test_the_prompt_is_whole_and_ends_where_the_answer_begins(processor):
    text = processor.tokenizer.decode(processor.prompt_token_ids)
    assert SCORE_PROMPT in text
    assert text.endswith("<|im_start|>assistant\n")


def test_no_special_token_but_the_stop_token_can_be_sampled(processor):
    banned = {processor.tokenizer.convert_ids_to_tokens(i) for i in processor.banned_token_ids}
    assert banned == set(SPECIAL_TOKENS) - {"<|im_end|>"}
    assert processor.stop_token_ids == [processor.tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_an_image_token_that_the_tokenizer_does_not_mark_is_banned_all_the_same(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "unmarked")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content.pop("extra_special_tokens", None)
        content.pop("additional_special_tokens", None)
        decoder = content.get("added_tokens_decoder", {}).values()
        for token in (*content.get("added_tokens", ()), *decoder):
            if token["content"] in ("<|image_pad|>", "<|video_pad|>"):
                token["special"] = False
        (folder / name).write_text(json.dumps(content))
    processor = PolicyProcessor(folder)
    assert processor.image_token_id not in processor._special_ids
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert {processor.image_token_id, video} <= set(processor.banned_token_ids)


def test_ids_without_a_token_are_banned(tiny_model, tmp_path):
    """Qwen's vocabulary is padded: the last ids belong to no token."""
    folder = shutil.copytree(tiny_model, tmp_path / "padded")
    config = (folder / "config.json").read_text()
    assert '"vocab_size": 384' in config
    (folder / "config.json").write_text(config.replace('"vocab_size": 384', '"vocab_size": 400'))
    banned = PolicyProcessor(folder).banned_token_ids
    assert set(range(384, 400)) <= set(banned)
    assert 383 not in banned


def test_a_target_is_its_tokens_and_the_stop_token(processor):
    text = format_completion("the light is even; colors are dull", 0.42)
    ids = processor.encode_completion(text)
    assert ids[-1] == processor.stop_token_ids[0]
    assert processor.decode(ids) == text
    assert processor.decode(ids[:-1]) == text, "a cut completion has no stop token"
    assert not set(ids[:-1].tolist()) & set(processor.banned_token_ids)


def test_pixel_limits_are_kept_and_saved(tiny_model, tmp_path):
    small = PolicyProcessor(tiny_model, max_pixels=56 * 56)
    assert small.prepare(make_image(200, 200)).tensors["image_grid_thw"].tolist() == [[1, 4, 4]]
    small.save(tmp_path)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model / name, tmp_path / name)
    assert PolicyProcessor(tmp_path).prepare(make_image(200, 200)).tensors["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize("count", [0, 2])
def test_a_template_with_another_number_of_images_is_refused(tiny_model, tmp_path, count):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|image_pad|>", "<|image_pad|>" * count))
    with pytest.raises(ModelError, match=f"puts {count} image tokens"):
        PolicyProcessor(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not found"):
        PolicyProcessor(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [(84, 84), (400, 300), (301, 97), (40, 33), (20, 120)])
def test_an_image_at_the_models_size_is_what_the_model_sees(processor, size):
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    small = fitted(processor, pixels)
    whole, once = (processor.prepare(Image.fromarray(one)) for one in (pixels, small))
    assert all(np.array_equal(whole.tensors[name], once.tensors[name]) for name in whole.tensors)
    assert fitted(processor, small) is small
    assert small.size <= 3 * 84 * 84


def with_template(tiny_model, folder, change):
    """A copy of the tiny model whose chat template `change` has edited."""
    shutil.copytree(tiny_model, folder)
    path = folder / "chat_template.jinja"
    path.write_text(change(path.read_text()))
    return folder


@pytest.mark.parametrize(
    "opened",
    [
        "<think>\n",
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
        "{% if enable_thinking is defined and not enable_thinking %}{% else %}<think>\n{% endif %}",
    ],
    ids=["always", "empty when off", "left out when off"],
)
def test_a_template_that_thinks_gives_the_same_prompt(tiny_model, processor, tmp_path, opened):
    """The policy opens its `<think>` itself, and the prompt's own words hold the tag, too."""
    folder = with_template(
        tiny_model, tmp_path / "m", lambda text: text.replace("assistant\n{%", f"assistant\n{opened}{{%")
    )
    made = PolicyProcessor(folder)
    assert made.prompt == processor.prompt
    assert "<think>your reasoning</think>" in made.prompt
    length = prompt_length(load_config(None, [f"policy.model={folder}"]))
    assert length is not None
    assert length.tokens(84, 84) == len(processor.prepare(make_image()).prompt_ids)


def test_a_template_that_leaves_out_the_question_is_refused(tiny_model, tmp_path):
    folder = with_template(tiny_model, tmp_path / "m", lambda text: text.replace("part['text']", "'?'"))
    with pytest.raises(ModelError, match="does not write the question"):
        PolicyProcessor(folder)


def test_an_answer_ends_with_the_token_of_the_chat_template(tiny_model, tmp_path):
    """Not with the tokenizer's own, which some models write at the end of a document only."""
    folder = with_template(tiny_model, tmp_path / "m", lambda text: text.replace("<|im_end|>", "<|box_end|>"))
    made = PolicyProcessor(folder)
    names = made.tokenizer.convert_ids_to_tokens
    assert names(made.stop_token_ids) == ["<|box_end|>"]
    assert {"<|im_end|>", "<|endoftext|>"} <= set(names(made.banned_token_ids))
    assert names(int(made.encode_completion("light")[-1])) == "<|box_end|>"


def test_tags_that_are_special_tokens_can_be_sampled(tiny_model, tmp_path):
    processor = PolicyProcessor(tiny_model)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    assert processor.tokenizer.convert_tokens_to_ids("<think>") not in processor.banned_token_ids


def test_a_processor_that_cannot_be_made_is_named(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "processor_config.json").write_text('{"processor_class": "NoSuchProcessor"}')
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot make the processor in .*/m"):
        PolicyProcessor(folder)
