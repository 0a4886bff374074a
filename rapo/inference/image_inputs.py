"""Image inputs: what vLLM's own processor makes of an image, for families that do not encode it
themselves, and the description of an encoded image that a request takes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from PIL import Image

from rapo.families.inputs import EncodedImage
from rapo.policy.processing import PolicyProcessor

if TYPE_CHECKING:
    import torch
    from vllm import LLM
    from vllm.multimodal.inputs import MultiModalFeatureSpec


class Renderer:
    """vLLM's processor of the engine `llm`. It may be called from any thread, and works on one
    image at a time, because tokenizers do."""

    def __init__(self, llm: LLM) -> None:
        from vllm import SamplingParams

        self._engine = llm.llm_engine
        self._parameters = SamplingParams(max_tokens=1)
        self._tasks = llm.llm_engine.get_supported_tasks()
        self._lock = threading.Lock()
        self.compared: set[tuple[int, ...]] = set()

    def __call__(
        self, prompt_ids: list[int], image: Image.Image | torch.Tensor, key: str
    ) -> tuple[list[int], MultiModalFeatureSpec]:
        """The widened prompt and vLLM's description of an RGB image, or of its pixels `(3, height,
        width)`. Equal keys mean equal images."""
        with self._lock:
            request = self._engine.input_processor.process_inputs(
                key,
                {
                    "prompt_token_ids": prompt_ids,
                    # Without a list, vLLM takes a tensor for embeddings.
                    "multi_modal_data": {"image": [image]},
                    "multi_modal_uuids": {"image": [key]},
                },
                self._parameters,
                supported_tasks=self._tasks,
            )
        (feature,) = request.mm_features
        return request.prompt_token_ids, feature


def features_of(encoded: EncodedImage, processor: PolicyProcessor) -> list[MultiModalFeatureSpec]:
    """vLLM's description of an encoded image for one request, as a list of one."""
    return [processor.family.feature(encoded, processor.image_token_id)]
