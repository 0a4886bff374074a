"""Resizing: the image processors whose sizes `rapo.images.model_view` knows, without torch.

- They bring an image to a size that follows from its area alone.
- Others have settings of the same names and another rule: GLM-4V's counts an image as two frames.
"""

#: By `image_processor_type`; of transformers since version 5, and of older ones.
BY_AREA = frozenset(
    {
        "Qwen2VLImageProcessor",
        "Qwen2VLImageProcessorPil",
        "Qwen2VLImageProcessorFast",
        "Qwen2_5_VLImageProcessor",
    }
)
