"""Tiled: families that cut an image into tiles of one size and read their features at plain
positions, such as InternVL3.5 ("-HF") and SmolVLM2.

The processor says how many tiles an image has, and writes their tokens into the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from rapo.families.family import PackingFamily, Tensors, no_mask, place_features

if TYPE_CHECKING:
    from rapo.policy.packing import Packed


class Tiled(PackingFamily):
    """InternVL (transformers' format), SmolVLM and Idefics3."""

    packs = frozenset({"llama", "qwen2", "qwen3"})
    renders_tensors = True

    def packed_hidden(
        self, model: PreTrainedModel, packed: Packed, is_image: torch.Tensor, images: Sequence[Tensors]
    ) -> torch.Tensor:
        embeds = model.get_input_embeddings()(packed.ids)
        features = model.model.get_image_features(**self.merge(images), return_dict=True).pooler_output
        embeds = place_features(embeds, is_image, features.flatten(0, 1))
        hidden: torch.Tensor = self.text_model(model)(
            inputs_embeds=embeds[None],
            position_ids=packed.positions,
            attention_mask=no_mask(embeds),
            use_cache=False,
            layout=packed.layout,
        ).last_hidden_state[0]
        return hidden
