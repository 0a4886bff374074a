"""A picture as the engine takes it, made outside the engine's thread.

vLLM would prepare each picture itself, in the thread that also computes; for small models that costs as much as the model. What
is made here is to the last bit what vLLM makes of the same picture (an integration test holds this): patches of raw pixels, which
the model normalises itself, and the prompt with a pad for each feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from rapo.inference.asking import Picture
from rapo.policy.processing import PolicyProcessor


def picture_of(processor: PolicyProcessor, image: Image.Image, key: str) -> Picture:
    """Of an RGB image of any size. May be called from any thread."""
    features = processor.processor.image_processor(
        images=[processor.fit(image)], do_rescale=False, do_normalize=False, return_tensors="np"
    )
    grid = np.asarray(features["image_grid_thw"][0], np.int64)
    patches = np.ascontiguousarray(features["pixel_values"], np.uint8)
    return Picture(patches, grid, processor.widened_prompt(int(grid.prod())), key)


def features_of(picture: Picture, image_token_id: int) -> list[Any]:
    """vLLM's `MultiModalFeatureSpec` of a picture, one in a list."""
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFeatureSpec,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
        PlaceholderRange,
    )

    patches, grid = torch.from_numpy(picture.patches), torch.from_numpy(picture.grid)
    item = MultiModalKwargsItem(
        {
            "pixel_values": MultiModalFieldElem(patches, MultiModalFlatField(slices=[slice(0, len(patches))])),
            "image_grid_thw": MultiModalFieldElem(grid, MultiModalBatchedField(keep_on_cpu=True)),
        }
    )
    first = picture.prompt_ids.index(image_token_id)
    place = PlaceholderRange(offset=first, length=picture.prompt_ids.count(image_token_id))
    return [MultiModalFeatureSpec(item, "image", picture.key, place, picture.key)]
