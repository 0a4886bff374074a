"""Image inputs: encodes images for the engine, outside the engine's thread.

- vLLM would prepare each image itself, in the thread that also computes. For small models that
  costs as much as the model.
- An encoded image equals what vLLM makes of the same image to the last bit (held by an integration
  test): patches of raw pixels, which the model normalises itself, and the prompt with a pad token
  for each feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rapo.inference.types import EncodedImage
from rapo.policy.processing import PolicyProcessor

if TYPE_CHECKING:
    from vllm.multimodal.inputs import MultiModalFeatureSpec


def encode_image(processor: PolicyProcessor, image: Image.Image, key: str) -> EncodedImage:
    """Encode an RGB image of any size. Call it from any thread."""
    settings = processor.processor.image_processor
    fitted = np.asarray(processor.fit(image))
    grid = np.array([1, *(side // settings.patch_size for side in fitted.shape[:2])], np.int64)
    patches = patches_of(fitted, settings.patch_size, settings.merge_size, settings.temporal_patch_size)
    return EncodedImage(patches, grid, processor.widened_prompt(int(grid.prod())), key)


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


def features_of(encoded: EncodedImage, image_token_id: int) -> list[MultiModalFeatureSpec]:
    """vLLM's description of an encoded image, as a list of one."""
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFeatureSpec,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
        PlaceholderRange,
    )

    patches, grid = torch.from_numpy(encoded.patches), torch.from_numpy(encoded.grid)
    item = MultiModalKwargsItem(
        {
            "pixel_values": MultiModalFieldElem(patches, MultiModalFlatField(slices=[slice(0, len(patches))])),
            "image_grid_thw": MultiModalFieldElem(grid, MultiModalBatchedField(keep_on_cpu=True)),
        }
    )
    first = encoded.prompt_ids.index(image_token_id)
    place = PlaceholderRange(offset=first, length=encoded.prompt_ids.count(image_token_id))
    return [MultiModalFeatureSpec(item, "image", encoded.key, place, encoded.key)]
