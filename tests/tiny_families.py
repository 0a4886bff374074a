"""Tiny families: a model of each family from its own configuration class, with random weights, a
tokenizer and a processor, all made here.

    python -m tests.tiny_families DIR    writes each to a folder of its name in DIR
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from rapo.answers.prompts import SCORE_PROMPT
from rapo.answers.readout import PAIRS
from rapo.families.tiny_model import TextSizes, VisionSizes, whiten_patches, write_random_policy
from rapo.families.tiny_prompt import CHAT_TEMPLATE, SPECIAL_TOKENS, build_tokenizer
from rapo.models.completeness import model_class
from rapo.models.weight_files import SINGLE

Made = tuple[PretrainedConfig, ProcessorMixin]
#: Published models of these families have other names than transformers' modules, and vLLM knows
#: only those.
PUBLISHED_NAMES = {
    "llava": ("vision_tower.", "vision_tower.vision_model."),
    "llava_onevision": ("vision_tower.", "vision_tower.vision_model."),
    "gemma3": ("vision_tower.", "vision_tower.vision_model."),
}
_HIDDEN, _HEADS, _LAYERS, _STD = 128, 4, 2, 0.05
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def build_tiny(kind: str, folder: Path, clauses: Sequence[str], *, seed: int = 0, vocabulary: int = 512) -> Path:
    """Write a model of the family `kind`, a key of `TINY`, to `folder`. The kind "joined" is a
    Qwen2.5-VL whose tokenizer writes the two decimals of an answer as one token."""
    if kind == "joined":
        return _joined(folder, list(clauses), vocabulary)
    config, processor = TINY[kind](list(clauses), vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)(config)
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Conv3d):  # of patches: no family has another
            whiten_patches(part.weight)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind in PUBLISHED_NAMES:
        ours, theirs = PUBLISHED_NAMES[kind]
        state = load_file(folder / SINGLE)
        save_file(
            {name.replace(ours, theirs): tensor for name, tensor in state.items()}, folder / SINGLE, {"format": "pt"}
        )
    return folder


def with_num2words(folder: Path) -> str:
    """`folder` with a stand-in for the package that SmolVLM's processor wants for the frames of
    videos, to be put last on the path of a process."""
    (folder / "num2words.py").write_text("num2words = str\n")
    return str(folder)


def _joined(folder: Path, clauses: list[str], vocabulary: int) -> Path:
    tokenizer = build_tokenizer(vocabulary, clauses)
    tokenizer.add_tokens(list(PAIRS))
    sizes: TextSizes = {
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "initializer_range": _STD,
    }
    tower: VisionSizes = {
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "depth": _LAYERS,
        "num_heads": _HEADS,
        "fullatt_block_indexes": [1],
        "initializer_range": _STD,
    }
    write_random_policy(folder, tokenizer, text=sizes, vision=tower, tied=False, pixels=84 * 84, seed=0)
    return folder


def _tokenizer(clauses: list[str], vocabulary: int, image: str = _IMAGE, **named: str) -> PreTrainedTokenizerFast:
    """The tiny model's tokenizer with tokens of the family's own, whose template writes `image` for
    an image."""
    return PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(vocabulary, clauses),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        extra_special_tokens=named,
        chat_template=CHAT_TEMPLATE.replace(_IMAGE, image),
    )


def _text(tokenizer: PreTrainedTokenizerFast, **more: object) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS // 2,
        "head_dim": _HIDDEN // _HEADS,
        "max_position_embeddings": 2048,
        "initializer_range": _STD,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }


_SECTIONS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]}
_CUTS = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
#: Of a plain vision transformer.
_TOWER = {
    "hidden_size": _HIDDEN,
    "intermediate_size": 2 * _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "image_size": 56,
    "patch_size": 14,
}
#: Of Qwen's.
_VISION = {"depth": _LAYERS, "num_heads": _HEADS, "spatial_merge_size": 2, "temporal_patch_size": 2}


def _qwen2(clauses: list[str], vocabulary: int) -> Made:
    tokenizer = _tokenizer(clauses, vocabulary)
    config = Qwen2VLConfig(
        text_config=_text(tokenizer, rope_parameters=_SECTIONS),
        vision_config={**_VISION, "embed_dim": _HIDDEN, "hidden_size": _HIDDEN, "mlp_ratio": 2, "patch_size": 14},
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    images = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112)
    return config, Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=tokenizer.chat_template)


def _qwen25(clauses: list[str], vocabulary: int) -> Made:
    tokenizer = _tokenizer(clauses, vocabulary)
    vision = {"hidden_size": _HIDDEN, "out_hidden_size": _HIDDEN, "intermediate_size": 2 * _HIDDEN, "patch_size": 14}
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_parameters=_SECTIONS),
        vision_config={**_VISION, **vision, "fullatt_block_indexes": [1], "window_size": 112},
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    images = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112)
    return config, Qwen2_5_VLProcessor(
        images, tokenizer, Qwen2VLVideoProcessor(), chat_template=tokenizer.chat_template
    )


def _qwen3(clauses: list[str], vocabulary: int) -> Made:
    tokenizer = _tokenizer(clauses, vocabulary)
    vision = {"hidden_size": _HIDDEN, "out_hidden_size": _HIDDEN, "intermediate_size": 2 * _HIDDEN, "patch_size": 16}
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, rope_parameters={**_SECTIONS, "mrope_interleaved": True}),
        vision_config={**_VISION, **vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    images = Qwen2VLImageProcessor(min_pixels=64 * 64, max_pixels=128 * 128, patch_size=16)
    videos = Qwen3VLVideoProcessor()
    return config, Qwen3VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template)


def _internvl(clauses: list[str], vocabulary: int) -> Made:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(clauses, vocabulary, "<IMG_CONTEXT>\n", **names)
    config = InternVLConfig(
        text_config=_text(tokenizer, model_type="qwen3", rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
        vision_config={**_TOWER, "image_size": [56, 56], "patch_size": [14, 14], "initializer_range": _STD},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4)
    videos = InternVLVideoProcessor(size={"height": 56, "width": 56})
    template = tokenizer.chat_template
    return config, InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=template)


def _cut(
    clauses: list[str], vocabulary: int, kind: type[PretrainedConfig]
) -> tuple[PretrainedConfig, PreTrainedTokenizerFast]:
    """Configuration and tokenizer of Idefics3 and SmolVLM."""
    tokens = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokens += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer(clauses, vocabulary, "<image>")
    tokenizer.add_special_tokens({"additional_special_tokens": tokens}, replace_extra_special_tokens=False)
    config = kind(
        text_config=_text(tokenizer, model_type="llama", rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
        vision_config={**_TOWER, "initializer_range": _STD},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return config, tokenizer


def _idefics3(clauses: list[str], vocabulary: int) -> Made:
    config, tokenizer = _cut(clauses, vocabulary, Idefics3Config)
    images = Idefics3ImageProcessor(**_CUTS)
    return config, Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)


def _smolvlm(clauses: list[str], vocabulary: int) -> Made:
    config, tokenizer = _cut(clauses, vocabulary, SmolVLMConfig)
    images, videos = SmolVLMImageProcessor(**_CUTS), SmolVLMVideoProcessor(**_CUTS)
    # The package writes the numbers of a video's frames.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    return config, SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=tokenizer.chat_template)


def _llava(clauses: list[str], vocabulary: int) -> Made:
    tokenizer = _tokenizer(clauses, vocabulary, "<image>\n", image_token="<image>")
    config = LlavaConfig(
        text_config=_text(tokenizer, model_type="llama", rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
        vision_config={
            **_TOWER,
            "model_type": "clip_vision_model",
            "projection_dim": 64,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    return config, LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def _llava_onevision(clauses: list[str], vocabulary: int) -> Made:
    tokenizer = _tokenizer(clauses, vocabulary, "<image>\n", image_token="<image>", video_token="<video>")
    cuts = [[56, 56], [56, 112], [112, 56]]
    config = LlavaOnevisionConfig(
        text_config=_text(tokenizer, model_type="qwen2", rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
        vision_config={
            **_TOWER,
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
        },
        image_grid_pinpoints=cuts,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=False,
    )
    size = {"height": 56, "width": 56}
    return config, LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=cuts),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )


def _gemma3(clauses: list[str], vocabulary: int) -> Made:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = _tokenizer(clauses, vocabulary, "<start_of_image>", **names)
    tokenizer.add_tokens(["\n", "\n\n", "\n\n\n", "\n\n\n\n"])  # vLLM looks for them
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    config = Gemma3Config(
        text_config=_text(
            tokenizer,
            query_pre_attn_scalar=_HIDDEN // _HEADS,
            sliding_window=32,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"sliding_attention": rope, "full_attention": rope},
        ),
        vision_config=dict(_TOWER),
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    return config, Gemma3Processor(images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4)


TINY: dict[str, Callable[[list[str], int], Made]] = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen25,
    "qwen3_vl": _qwen3,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "gemma3": _gemma3,
}


if __name__ == "__main__":
    for name in TINY:
        build_tiny(name, Path(sys.argv[1]) / name, SCORE_PROMPT.split(": "))
