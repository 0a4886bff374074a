"""The two workloads of the benchmarks: one RAPO step each, small enough for a CPU with two cores.

W1 is bound by the overhead of each call, W2 by arithmetic. Both are a Qwen2.5-VL of random weights,
asked rapo's own prompt about images of noise, and each completion has exactly `new_tokens` tokens,
so that two systems that run one do the same work.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from rapo.answers.prompts import SCORE_PROMPT
from rapo.families.tiny_model import TextSizes, VisionSizes, write_random_policy
from rapo.families.tiny_prompt import SPECIAL_TOKENS
from rapo.util.atomic_dir import whole_folder

# Bytes a token: rapo's prompt, template included, then has 59 tokens with one image pad; 67 in W1
# and 122 in W2 once widened.
_PIECE = r".{1,7}"
_TEMPLATE_TEXT = ("user", "assistant", "\n")


@dataclass(frozen=True, slots=True)
class Workload:
    """One step: `images` of `side` x `side` pixels, `completions` of `new_tokens` tokens for each,
    one optimiser step.

    `text` and `vision` are the model's sizes in the names of `Qwen2_5_VLConfig`. `beta` weighs the
    KL term.
    """

    name: str
    images: int
    side: int
    new_tokens: int
    text: TextSizes = field(repr=False, hash=False)
    vision: VisionSizes = field(repr=False, hash=False)
    completions: int = 8
    learning_rate: float = 1e-6
    temperature: float = 1.0
    beta: float = 0.01

    @property
    def rows(self) -> int:
        """Completions of a step, all images together."""
        return self.images * self.completions


W1 = Workload(
    name="W1",
    images=32,
    side=84,
    new_tokens=48,
    text={
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    vision={"hidden_size": 64, "intermediate_size": 128, "depth": 2, "num_heads": 4, "fullatt_block_indexes": [1]},
)
W2 = Workload(
    name="W2",
    images=16,
    side=224,
    new_tokens=96,
    text={
        "hidden_size": 512,
        "intermediate_size": 1792,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    vision={"hidden_size": 256, "intermediate_size": 768, "depth": 4, "num_heads": 4, "fullatt_block_indexes": [1, 3]},
)
WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in (W1, W2)}


def build_model(workload: Workload, folder: Path, seed: int = 0) -> Path:
    """Write the workload's model folder, which transformers, vLLM and `PolicyProcessor` load;
    `folder`, for convenience."""
    with whole_folder(folder) as aside:
        write_random_policy(
            aside,
            _build_tokenizer(),
            text=workload.text,
            vision=workload.vision,
            tied=True,
            pixels=workload.side**2,
            seed=seed,
        )
    return folder


def make_images(workload: Workload, seed: int) -> list[bytes]:
    """The images of one step: noise, as PNG files in memory. Another seed, other images."""
    rng = np.random.default_rng(seed)
    return [
        _png(rng.integers(0, 256, (workload.side, workload.side, 3), dtype=np.uint8)) for _ in range(workload.images)
    ]


def write_images(workload: Workload, folder: Path, steps: int) -> Path:
    """The images of `steps` steps as PNG files in `folder`, seeds 0, 1, ..., named in the order of
    use."""
    with whole_folder(folder) as aside:
        aside.mkdir(parents=True)
        for step in range(steps):
            for index, image in enumerate(make_images(workload, step)):
                (aside / f"{step:04d}-{index:04d}.png").write_bytes(image)
    return folder


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)  # noise does not compress
    return buffer.getvalue()


def _build_tokenizer() -> Tokenizer:
    """A byte-level BPE of the special tokens, the 256 bytes and the prompt's own pieces: about 320
    tokens.

    Learned merges would need hundreds of intermediate tokens to bring the prompt down to 50; here
    its pieces are tokens as they stand, and any other text falls back to bytes.
    """
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces = [piece for text in (*_TEMPLATE_TEXT, SCORE_PROMPT) for piece, _ in cut.pre_tokenize_str(text)]
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces])
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer
