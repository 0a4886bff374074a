"""Tiny model: a Qwen2.5-VL of about a million random parameters, with its own tokenizer and
processor. The configuration calls it `embedded`.

- It differs from a real Qwen2.5-VL in size only and is saved in the transformers format, so that
  nothing downstream treats it differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rapo.config import TinyModelConfig
from rapo.families.tiny_prompt import CHAT_TEMPLATE, MERGE, MIN_PIXELS, PATCH, SPECIAL_TOKENS, build_tokenizer

# Transformers' default of 0.02 suits widths in the thousands; at width 128 the first hundreds of
# steps have little signal (validation SRCC after the same 300 steps: .58 with 0.02, .83 with 0.05).
_INIT_STD = 0.05


class TextSizes(TypedDict):
    """Sizes of the text model, in the names of `Qwen2_5_VLConfig`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    initializer_range: NotRequired[float]


class VisionSizes(TypedDict):
    """Sizes of the vision tower, in the names of `Qwen2_5_VLConfig`."""

    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    fullatt_block_indexes: list[int]
    initializer_range: NotRequired[float]


def build_tiny_model(folder: Path, settings: TinyModelConfig, seed: int, clauses: Iterable[str]) -> None:
    """Write model, tokenizer and processor to `folder`. The same arguments give the same bytes.

    `clauses` are the texts that, besides the prompt, the tokenizer should write in few tokens.
    """
    hidden = settings.hidden_size
    write_random_policy(
        folder,
        build_tokenizer(settings.vocabulary, list(clauses)),
        text={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": settings.text_layers,
            "num_attention_heads": settings.heads,
            "num_key_value_heads": settings.heads,
            "initializer_range": _INIT_STD,
        },
        vision={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "depth": settings.vision_layers,
            "num_heads": settings.heads,
            "fullatt_block_indexes": list(range(settings.vision_layers)),
            "initializer_range": _INIT_STD,
        },
        tied=False,
        pixels=settings.pixels,
        seed=seed,
    )


def write_random_policy(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    text: TextSizes,
    vision: VisionSizes,
    tied: bool,
    pixels: int,
    seed: int,
) -> None:
    """Write a Qwen2.5-VL of random weights with its processor to `folder`, in the transformers
    format.

    All else follows from the sizes and the tokenizer, which must hold `SPECIAL_TOKENS`. `tied`:
    input and output embeddings are one matrix. `pixels` caps an image's area.
    """
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=MIN_PIXELS, max_pixels=pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_model_config(text, vision, tied, fast))
    whiten_patches(model.model.visual.patch_embed.proj.weight)
    model.generation_config.eos_token_id = fast.eos_token_id
    model.generation_config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def whiten_patches(filters: torch.Tensor) -> None:
    """Scale the random filters `(..., side, side)` of a patch embedding, in place, so that all
    spatial frequencies of an image reach the model alike.

    The amplitude of an image's frequencies falls about as 1/f (Field 1987, "Relations between the
    statistics of natural images and the response properties of cortical cells"). Plain random
    filters therefore answer to brightness and hardly to detail, and sharpness is not learned in
    some hundred steps. A filter's cosine coefficient of frequency f, in half waves a patch, is
    multiplied by 1 + f.
    """
    side = filters.shape[-1]
    waves = torch.arange(side)
    basis = torch.cos(math.pi * torch.outer(waves, 2 * waves + 1) / (2 * side)) * (2 / side) ** 0.5
    basis[0] /= 2**0.5
    gain = 1 + torch.hypot(waves[:, None].float(), waves.float())
    with torch.no_grad():
        filters.copy_(basis.T @ (basis @ filters @ basis.T * gain) @ basis)


def _model_config(
    text: TextSizes, vision: VisionSizes, tied: bool, tokenizer: PreTrainedTokenizerFast
) -> Qwen2_5_VLConfig:
    hidden, ids = text["hidden_size"], tokenizer.convert_tokens_to_ids
    half = hidden // text["num_attention_heads"] // 2
    side = half * 3 // 8
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 2048,
            "rope_scaling": {"type": "mrope", "mrope_section": [half - 2 * side, side, side]},
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": tied,
            **text,
        },
        vision_config={
            "out_hidden_size": hidden,
            "window_size": 112,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            **vision,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
