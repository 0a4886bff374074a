"""Inputs: an image as the learner and as the engine take it, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch
    from vllm.multimodal.inputs import MultiModalFeatureSpec

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of one image for the learner.

    `tensors` are what the family's `merge` takes, each with one row or more for the image: the
    processor's own by the names under which the model takes them, or a smaller form of them.
    `prompt_ids` is int64 `(P,)`, with a token for each feature of the image. `token_types` are
    arrays `(P,)` that mark tokens, by name; most families have none.
    """

    tensors: Arrays
    prompt_ids: NDArray[np.int64]
    token_types: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The memory of its arrays."""
        return sum(array.nbytes for array in (*self.tensors.values(), self.prompt_ids, *self.token_types.values()))


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image in the form that the engine takes.

    `prompt_ids` has one token per image feature. Equal keys mean equal images: vLLM's caches look
    images up by them. The image itself is either `tensors`, which the family describes to vLLM, or
    `rendered`, which is vLLM's own description.
    """

    tensors: Arrays
    prompt_ids: list[int]
    key: str
    rendered: MultiModalFeatureSpec | None = None

    @property
    def nbytes(self) -> int:
        """The memory of the image."""
        if self.rendered is not None and self.rendered.data is not None:
            parts = [element.data for element in self.rendered.data.values()]
            return sum(part.nbytes for part in parts if hasattr(part, "nbytes"))
        return sum(array.nbytes for array in self.tensors.values())


class Render(Protocol):
    """vLLM's own processor. `compared` are the sizes of images, height first, whose prompt was
    found to be the learner's."""

    compared: set[tuple[int, ...]]

    def __call__(
        self, prompt_ids: list[int], image: Image.Image | torch.Tensor, key: str
    ) -> tuple[list[int], MultiModalFeatureSpec]:
        """Of an RGB image, or its pixels `(3, height, width)`, under a key, in the prompt of these
        token ids: the widened prompt, and the description of the image."""
        ...
