"""QwenVL: Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

- An image is patches of pixels with a grid of its own size. Its tokens have positions of three
  axes, and advance the position by the longer side only.
- The engine gets patches of raw pixels, which vLLM normalises itself. vLLM would prepare each image
  in the thread that also computes; for small models that costs as much as the model. What is
  encoded here equals what vLLM makes of the same image to the last bit.
- The learner's patches are raw as well, a quarter of the normalised ones, and `merge` normalises
  them where they are computed with. A normalised pixel is a function of its channel and its raw
  value alone, so that a table of 256 levels a channel gives the processor's own values to the last
  bit; where it does not, the learner takes the processor's patches.
- Qwen3-VL adds features of lower vision layers to the first text layers (DeepStack).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedModel
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import ModelOutput
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from rapo.errors import ModelError
from rapo.families.family import PackingFamily, Tensors, no_mask, place_features
from rapo.families.inputs import EncodedImage, Prepared, Render

if TYPE_CHECKING:
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    from rapo.policy.packing import Packed
    from rapo.policy.processing import PolicyProcessor

# What the model takes.
_PIXELS, _GRID, _TYPES = "pixel_values", "image_grid_thw", "mm_token_type_ids"
# What the learner holds in the place of pixels.
_PATCHES, _LEVELS = "patches", "levels"


class QwenVL(PackingFamily):
    """Qwen2-VL and Qwen2.5-VL."""

    limits_pixels = True
    packs = frozenset({"qwen2_vl_text", "qwen2_5_vl_text"})

    def prepare(self, processor: PolicyProcessor, pixels: NDArray[np.uint8]) -> Prepared:
        levels = processor.pixel_levels
        tensors: dict[str, NDArray[np.generic]]
        if levels is None:
            patches, grid = _normalised(processor, pixels)
            tensors = {_PIXELS: patches, _GRID: grid}
        else:
            raw, sides = self._raw(processor, pixels)
            grid = sides[None]
            tensors = {_PATCHES: raw, _LEVELS: levels, _GRID: grid}
        ids = np.asarray(_widened(processor, int(grid.prod())), np.int64)
        types = (ids == processor.image_token_id).astype(np.int64)
        return Prepared(tensors, ids, {_TYPES: types})

    def pixel_levels(self, processor: PolicyProcessor) -> NDArray[np.float32] | None:
        settings = processor.processor.image_processor
        values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
        made = settings.rescale_and_normalize(
            values.clone(),
            settings.do_rescale,
            settings.rescale_factor,
            settings.do_normalize,
            settings.image_mean,
            settings.image_std,
        )
        levels: NDArray[np.float32] = made.reshape(3, 256).numpy()
        noise = np.random.default_rng(0).integers(0, 256, (61, 45, 3), dtype=np.uint8)
        own, _ = _normalised(processor, noise)
        patches, _ = self._raw(processor, noise)
        found = _levelled(torch.from_numpy(patches), torch.from_numpy(levels)).numpy()
        return levels if found.dtype == own.dtype and np.array_equal(found, own) else None

    def merge(self, images: Sequence[Tensors]) -> dict[str, torch.Tensor]:
        if _PATCHES not in images[0]:
            return super().merge(images)
        merged = super().merge([{name: image[name] for name in (_PATCHES, _GRID)} for image in images])
        return {_PIXELS: _levelled(merged[_PATCHES], images[0][_LEVELS]), _GRID: merged[_GRID]}

    def _raw(
        self, processor: PolicyProcessor, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The raw patches of an image, and its grid `(3,)`."""
        settings = processor.processor.image_processor
        seen = fitted(processor, pixels)
        grid = np.array([1, *(side // settings.patch_size for side in seen.shape[:2])], np.int64)
        return patches_of(seen, settings.patch_size, settings.merge_size, settings.temporal_patch_size), grid

    def windowed_tower(self, model: PreTrainedModel) -> PreTrainedModel | None:
        tower: PreTrainedModel = model.model.visual
        return tower

    def positions(
        self, model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, images: Sequence[Tensors], types: Tensors
    ) -> torch.Tensor:
        grid = torch.cat([image[_GRID] for image in images])
        found: torch.Tensor = model.model.get_rope_index(ids, types[_TYPES], image_grid_thw=grid, attention_mask=mask)[
            0
        ]
        return found

    def packed_hidden(
        self, model: PreTrainedModel, packed: Packed, is_image: torch.Tensor, images: Sequence[Tensors]
    ) -> torch.Tensor:
        core = model.model
        embeds = model.get_input_embeddings()(packed.ids)
        features = core.get_image_features(**self.merge(images), return_dict=True)
        embeds = place_features(embeds, is_image, torch.cat(list(features.pooler_output)))
        hidden: torch.Tensor = core.language_model(
            inputs_embeds=embeds[None],
            position_ids=packed.positions[:, None],
            attention_mask=no_mask(embeds),
            use_cache=False,
            layout=packed.layout,
            **self.deep_features(features, is_image),
        ).last_hidden_state[0]
        return hidden

    def deep_features(self, features: ModelOutput, is_image: torch.Tensor) -> dict[str, object]:
        """What else the text model takes of an image's `features`; nothing here."""
        return {}

    def encode(self, processor: PolicyProcessor, pixels: NDArray[np.uint8], key: str, render: Render) -> EncodedImage:
        patches, grid = self._raw(processor, pixels)
        ids = _widened(processor, int(grid.prod()))
        return EncodedImage({_PIXELS: patches, _GRID: grid}, ids, key)

    def feature(self, encoded: EncodedImage, image_token_id: int) -> MultiModalFeatureSpec:
        from vllm.multimodal.inputs import (
            MultiModalBatchedField,
            MultiModalFeatureSpec,
            MultiModalFieldElem,
            MultiModalFlatField,
            MultiModalKwargsItem,
            PlaceholderRange,
        )

        patches, grid = (torch.from_numpy(encoded.tensors[name]) for name in (_PIXELS, _GRID))
        item = MultiModalKwargsItem(
            {
                _PIXELS: MultiModalFieldElem(patches, MultiModalFlatField(slices=[slice(0, len(patches))])),
                _GRID: MultiModalFieldElem(grid, MultiModalBatchedField(keep_on_cpu=True)),
            }
        )
        first = encoded.prompt_ids.index(image_token_id)
        place = PlaceholderRange(offset=first, length=encoded.prompt_ids.count(image_token_id))
        return MultiModalFeatureSpec(item, "image", encoded.key, place, encoded.key)


class Qwen3VL(QwenVL):
    """Qwen3-VL."""

    packs = frozenset({"qwen3_vl_text"})

    def deep_features(self, features: ModelOutput, is_image: torch.Tensor) -> dict[str, object]:
        layers = [torch.cat(list(layer)) for layer in features.deepstack_features]
        return {"visual_pos_masks": is_image[None], "deepstack_visual_embeds": layers}


def patches_of(pixels: NDArray[np.uint8], patch: int, merge: int, frames: int) -> NDArray[np.uint8]:
    """The patches `(patches, patch_dim)` of `(height, width, 3)` pixels, as Qwen2-VL's image
    processor lays them out, without its rescaling and normalising.

    Each row is a square of `patch` x `patch` pixels, channel by channel, each channel `frames`
    times. The squares of a block of `merge` x `merge` follow one another.

    It is plain NumPy, because each of the processor's dozens of small torch operations releases the
    interpreter's lock and gets it back only after the engine's thread.
    """
    height, width, channels = pixels.shape
    down, across = height // patch, width // patch
    squares = pixels.reshape(down // merge, merge, patch, across // merge, merge, patch, channels)
    squares = squares.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    repeated = np.broadcast_to(squares, (*squares.shape[:5], frames, patch, patch))
    return repeated.reshape(down * across, channels * frames * patch * patch)


def fitted(processor: PolicyProcessor, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image at the size at which the model sees it, `(height, width, 3)` like `pixels`."""
    resizer = processor.processor.image_processor
    factor = resizer.patch_size * resizer.merge_size
    low, high = resizer.size["shortest_edge"], resizer.size["longest_edge"]
    if smart_resize(*pixels.shape[:2], factor, low, high) == pixels.shape[:2]:
        return pixels
    channels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    size = SizeDict(shortest_edge=low, longest_edge=high)
    resized: torch.Tensor = resizer.resize(images=channels, size=size, resample=resizer.resample, factor=factor)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _normalised(processor: PolicyProcessor, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The image processor's own patches of an image, and its grid `(1, 3)`."""
    features = processor.processor.image_processor(images=[Image.fromarray(pixels)], return_tensors="np")
    return np.asarray(features[_PIXELS], np.float32), np.asarray(features[_GRID], np.int64)


def _levelled(patches: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Raw patches `(patches, patch_dim)`, whose rows are channel by channel, normalised by `levels`
    `(channels, 256)`."""
    channels = levels.shape[0]
    offsets = 256 * torch.arange(channels, device=patches.device)
    places = patches.unflatten(1, (channels, -1)).long() + offsets[:, None]
    return levels.reshape(-1)[places].flatten(1)


def _widened(processor: PolicyProcessor, patches: int) -> list[int]:
    """The prompt's token ids with a pad for each feature of an image of `patches` patches. Raises
    `ModelError` where the chat template makes another number of pads than one."""
    pad, ids = processor.image_token_id, processor.prompt_token_ids
    if ids.count(pad) != 1:
        raise ModelError(
            f"the chat template puts {ids.count(pad)} image tokens into the prompt; it must put one. "
            "Check chat_template in the model folder."
        )
    at, merge = ids.index(pad), processor.processor.image_processor.merge_size
    return [*ids[:at], *[pad] * (patches // merge**2), *ids[at + 1 :]]
