"""ModelView: exactly the model's own size, and nearly its own pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from rapo.config import ImageConfig
from rapo.errors import ImageError, ModelError
from rapo.families.qwen_vl import fitted
from rapo.images.model_view import ModelView

if TYPE_CHECKING:
    from rapo.policy.processing import PolicyProcessor


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(84, 84), (640, 480), (30, 20), (300, 17), (17, 300), (1000, 90), (56, 57)])
def test_it_has_the_processors_size_and_nearly_its_pixels(
    tiny_model: Path, processor: PolicyProcessor, size: tuple[int, int]
) -> None:
    image = gradient(*size)
    expected = fitted(processor, np.array(image))
    seen = ModelView.of(tiny_model).render(encoded(image), ImageConfig())
    assert (seen.size, seen.original) == (expected.shape[1::-1], size)
    shown = np.asarray(Image.open(io.BytesIO(seen.png)), dtype=np.int16)
    assert np.abs(shown - expected.astype(np.int16)).max() <= 2


def test_an_image_is_upright(tiny_model: Path) -> None:
    image = gradient(120, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    assert ModelView.of(tiny_model).render(buffer.getvalue(), ImageConfig()).original == (60, 120)


def test_a_processor_without_a_size_of_its_own_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 512}, "do_image_splitting": true}')
    assert ModelView.of(tmp_path).render(encoded(gradient(61, 37)), ImageConfig()).size == (61, 37)


def test_a_bad_image_and_a_bad_model_are_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        ModelView.of(tiny_model).render(b"nonsense", ImageConfig())
    with pytest.raises(ModelError, match="no image processor"):
        ModelView.of(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ModelError, match="does not describe"):
        ModelView.of(tmp_path)
