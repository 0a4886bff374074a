"""ModelView: an image as the model sees it, decoded, upright and at the image processor's size,
without torch.

- The sizes are exactly the processor's, where it brings an image to one size that follows from its
  area (`rapo.families.resizing`). With any other, such as one that cuts an image into tiles, the
  view is the image as it is.
- The pixels come from Pillow's resampling instead of torchvision's and differ by rounding. They are
  for display, never for the model.
"""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rapo.config import ImageConfig
from rapo.errors import ModelError
from rapo.families.resizing import BY_AREA
from rapo.images.decode import decode_image

_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class RenderedView:
    """The image as a PNG, its size and its original size, each as (width, height) in pixels."""

    png: bytes
    size: tuple[int, int]
    original: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelView:
    """The resizing of a model's image processor: sides are multiples of `factor`, and the area lies
    between `min_pixels` and `max_pixels`. Without values nothing is resized."""

    min_pixels: int = 0
    max_pixels: int = sys.maxsize
    factor: int = 1
    resample: Image.Resampling = Image.Resampling.BICUBIC

    @property
    def resizes(self) -> bool:
        """Whether an image has one size for the model, a feature for each square of `factor`."""
        return self.factor > 1

    @classmethod
    def of(cls, folder: Path) -> ModelView:
        """The view of a model folder. Raises `ModelError` where the folder does not describe an
        image processor."""
        for name in _FILES:
            if (folder / name).is_file():
                break
        else:
            raise ModelError(f"{folder} holds no image processor ({' or '.join(_FILES)}).")
        try:
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            settings = settings.get("image_processor", settings)
            # Folders of older versions of transformers have the names of its arguments.
            size = settings.get("size") or {}
            if settings.get("image_processor_type") not in BY_AREA:
                return cls()
            return cls(
                min_pixels=int(size.get("shortest_edge") or settings["min_pixels"]),
                max_pixels=int(size.get("longest_edge") or settings["max_pixels"]),
                factor=int(settings["patch_size"]) * int(settings["merge_size"]),
                resample=Image.Resampling(int(settings.get("resample", Image.Resampling.BICUBIC))),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / name} does not describe an image processor: {error!r}") from error

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The size at which the model sees an image of `width` x `height` pixels."""
        sides = [max(self.factor, round(side / self.factor) * self.factor) for side in (width, height)]
        if sides[0] * sides[1] > self.max_pixels:
            scale = math.sqrt(width * height / self.max_pixels)
            sides = [max(self.factor, math.floor(side / scale / self.factor) * self.factor) for side in (width, height)]
        elif sides[0] * sides[1] < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (width * height))
            sides = [math.ceil(side * scale / self.factor) * self.factor for side in (width, height)]
        return sides[0], sides[1]

    def render(self, data: bytes, limits: ImageConfig) -> RenderedView:
        """The view of an encoded image. Raises `ImageError` where it is not usable."""
        image = decode_image(data, limits)
        fitted = image.resize(self.size(*image.size), self.resample)
        buffer = io.BytesIO()
        fitted.save(buffer, format="PNG")
        return RenderedView(buffer.getvalue(), fitted.size, image.size)
