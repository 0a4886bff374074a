"""An image as the engine takes it, made outside the engine's thread.

vLLM would prepare each image itself, in the thread that also computes; for small models that costs
as much as the model. What is made here is to the last bit what vLLM makes of the same image (an
integration test holds this): patches of raw pixels, which the model normalises itself, and the
prompt with a pad for each feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rapo.inference.types import EncodedImage
from rapo.policy.processing import PolicyProcessor


def encode_image(processor: PolicyProcessor, image: Image.Image, key: str) -> EncodedImage:
    """Of an RGB image of any size. May be called from any thread."""
    settings = processor.processor.image_processor
    fitted = np.asarray(processor.fit(image))
    grid = np.array([1, *(side // settings.patch_size for side in fitted.shape[:2])], np.int64)
    patches = patches_of(fitted, settings.patch_size, settings.merge_size, settings.temporal_patch_size)
    return EncodedImage(patches, grid, processor.widened_prompt(int(grid.prod())), key)


def patches_of(pixels: NDArray[np.uint8], patch: int, merge: int, frames: int) -> NDArray[np.uint8]:
    """What Qwen2-VL's image processor makes of `(height, width, 3)` pixels, but for rescaling and
    normalising: a row for each `patch` x `patch` square, those of a `merge` x `merge` block one
    after the other; a row holds channel by channel the square, `frames` times.

    Plain NumPy: the processor's dozens of small torch operations each give the interpreter's lock
    away, and get it back only after the engine's thread.
    """
    height, width, channels = pixels.shape
    down, across = height // patch, width // patch
    squares = pixels.reshape(down // merge, merge, patch, across // merge, merge, patch, channels)
    squares = squares.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    shown = np.broadcast_to(squares, (*squares.shape[:5], frames, patch, patch))
    return shown.reshape(down * across, channels * frames * patch * patch)


def features_of(encoded: EncodedImage, image_token_id: int) -> list[Any]:
    """vLLM's `MultiModalFeatureSpec` of an image, one in a list."""
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
