"""ModelShape: the sizes of a vision-language model, from its `config.json` alone.

- The layers are those of the embedded policy's family: biases on queries, keys and values, a gated
  inner layer, and a vision tower whose projector joins four patches. For other families the figures
  are rough.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rapo.config import TinyModelConfig
from rapo.errors import ModelError

_MERGE = 4  # patches of an image token
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Text model and vision tower; `tied`: the head is the embedding. `head` is the width of an
    attention head, None where the heads share out the model's width."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    patch: int
    temporal: int
    head: int | None = None

    @classmethod
    def read(cls, folder: Path) -> ModelShape:
        """From a model folder. Raises `ModelError` where its `config.json` says too little."""
        path = folder / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            text, vision = content.get("text_config", content), content["vision_config"]
            return cls(
                hidden=int(text["hidden_size"]),
                intermediate=int(text["intermediate_size"]),
                layers=int(text["num_hidden_layers"]),
                heads=int(text["num_attention_heads"]),
                kv_heads=int(text.get("num_key_value_heads", text["num_attention_heads"])),
                vocabulary=int(text["vocab_size"]),
                tied=bool(content.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
                # Where both are there, `hidden_size` is the width that the projector makes of it.
                vision_hidden=int(vision.get("embed_dim", vision.get("hidden_size", 1280))),
                vision_intermediate=int(vision.get("intermediate_size", 3420)),
                vision_layers=int(vision.get("depth", vision.get("num_hidden_layers", 32))),
                patch=_side(vision.get("patch_size", 14)),
                temporal=int(vision.get("temporal_patch_size", 2)),
                head=text.get("head_dim"),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} does not describe a model that can be planned: {error!r}") from error

    @classmethod
    def embedded(cls, tiny: TinyModelConfig) -> ModelShape:
        """The embedded policy."""
        width = tiny.hidden_size
        return cls(
            width, 2 * width, tiny.text_layers, tiny.heads, tiny.heads, tiny.vocabulary, False, width, 2 * width,
            tiny.vision_layers, 14, 2,
        )  # fmt: skip

    @property
    def head_width(self) -> int:
        return self.head or self.hidden // self.heads

    @property
    def layer_parameters(self) -> int:
        """Of one layer of the text model."""
        h, q, kv = self.hidden, self.heads * self.head_width, self.kv_heads * self.head_width
        attention = 2 * h * q + q + 2 * (h * kv + kv)  # q and o, bias of q, k and v with theirs
        return attention + 3 * h * self.intermediate + 2 * h

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def text_parameters(self) -> int:
        """Of the text model with its embedding and its head."""
        tables = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + self.hidden + tables

    @property
    def vision_parameters(self) -> int:
        """Of the vision tower and its projector."""
        h, f = self.vision_hidden, self.vision_intermediate
        block = 3 * h * h + 3 * h + h * h + h + 2 * (h * f + f) + f * h + h + 2 * h
        wide = _MERGE * h
        merger = h + wide * wide + wide + wide * self.hidden + self.hidden
        return _CHANNELS * self.temporal * self.patch**2 * h + self.vision_layers * block + merger

    @property
    def parameters(self) -> int:
        return self.text_parameters + self.vision_parameters

    def patches(self, pixels: int) -> int:
        """Patches of an image of that many pixels."""
        return max(_MERGE, pixels // self.patch**2)

    def image_tokens(self, pixels: int) -> int:
        return self.patches(pixels) // _MERGE

    def kv_bytes_per_token(self, element: int) -> int:
        """Of the sampler's cache, for elements of that many bytes."""
        return 2 * self.layers * self.kv_heads * self.head_width * element

    def activation_bytes_per_token(self, element: int, *, checkpointing: bool) -> int:
        """What the text model keeps of a token for the backward pass.

        Per layer 16 times the width and 4 times the inner width; with checkpointing each layer's
        input alone. At 7B's sizes in bfloat16 260 KiB and 7 KiB were measured (docs/gpu.md).
        """
        layer = self.hidden if checkpointing else 16 * self.hidden + 4 * self.intermediate
        return element * layer * self.layers

    def layer_bytes_per_token(self, element: int) -> int:
        """What one layer that is computed again keeps of a token."""
        return element * (16 * self.hidden + 4 * self.intermediate)


def _side(patch: int | Sequence[int]) -> int:
    """The side of a square patch, which some families name twice."""
    return int(patch if isinstance(patch, int) else patch[0])
