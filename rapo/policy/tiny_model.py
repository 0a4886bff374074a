"""Tiny model: a Qwen2.5-VL of about a million random parameters, with its own tokenizer and
processor. The configuration calls it `embedded`.

- It differs from a real Qwen2.5-VL in size only and is saved in the transformers format, so that
  nothing downstream treats it differently.
- The tokenizer is a byte-level BPE that may merge across words, so that a clause of a critique
  becomes one to three tokens. A model this small can then learn to write critiques in a minute of
  CPU time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rapo.answers.prompts import SCORE_PROMPT
from rapo.config import TinyModelConfig

#: Qwen2.5-VL's special tokens; their order fixes their ids.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
                  "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")  # fmt: skip

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Tags and digits are tokens of their own, so that every score is four tokens that it shares with
# the other scores.
_PIECES = Regex(r"</?think>|</?answer>|[0-9]|\.")
_PATCH, _MERGE = 14, 2
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
        _build_tokenizer(settings.vocabulary, list(clauses)),
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
        chat_template=_CHAT_TEMPLATE,
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=(2 * _PATCH * _MERGE) ** 2, max_pixels=pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_CHAT_TEMPLATE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_model_config(text, vision, tied, fast))
    model.generation_config.eos_token_id = fast.eos_token_id
    model.generation_config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _build_tokenizer(vocabulary: int, clauses: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tags = "<think></think><answer></answer>"
    # The prompt is read once per image and a clause is written once per completion; the weights
    # follow that. A clause is learned with its separator, never with the clause that follows.
    corpus = [
        *[f"{c}; " for c in clauses] * 8,
        *clauses * 8,
        *[tags] * 400,
        *[SCORE_PROMPT] * 4,
        "user\n",
        "assistant\n",
    ]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


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
            "patch_size": _PATCH,
            "spatial_merge_size": _MERGE,
            "temporal_patch_size": 2,
            **vision,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
