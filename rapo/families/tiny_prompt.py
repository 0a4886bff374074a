"""Tiny prompt: tokenizer, chat template and image sizes of the tiny model, without torch.

- The tokenizer is a byte-level BPE that may merge across words, so that a clause of a critique
  becomes one to three tokens. A model this small can then learn to write critiques in a minute of
  CPU time.
- The same arguments give the same tokenizer, so that a prompt's length is known before the model is
  built.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rapo.answers.prompts import SCORE_PROMPT

#: The side of a patch in pixels, and how many patches on a side become one image token.
PATCH, MERGE = 14, 2
MIN_PIXELS = (2 * PATCH * MERGE) ** 2

#: Qwen2.5-VL's special tokens; their order fixes their ids.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
                  "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")  # fmt: skip


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Tags and digits are tokens of their own, so that every score is four tokens that it shares with
# the other scores.
_PIECES = Regex(r"</?think>|</?answer>|[0-9]|\.")


def build_tokenizer(vocabulary: int, clauses: list[str]) -> Tokenizer:
    """The tokenizer that writes the prompt and `clauses` in few tokens."""
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
