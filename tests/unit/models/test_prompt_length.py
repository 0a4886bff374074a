"""PromptLength: as long as the processor's own prompts, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_image

from rapo.config import load_config
from rapo.errors import ImageError
from rapo.models.prompt_length import TOO_LONG, PromptLength, prompt_length
from rapo.policy.processing import PolicyProcessor

SIZES = [(84, 84), (56, 84), (112, 56), (300, 40), (57, 99), (28, 28), (1200, 1000), (1999, 1001), (33, 4000)]
LIMITS = [{}, {"max_pixels": 1_000_000}, {"min_pixels": 20_000, "max_pixels": 90_000}]


def length_of(folder: Path, *overrides: str) -> PromptLength:
    found = prompt_length(load_config(None, [f"policy.model={folder}", *overrides]))
    assert found is not None
    return found


@pytest.mark.parametrize("limits", LIMITS)
def test_it_is_the_processors(tiny_model, limits):
    processor = PolicyProcessor(tiny_model, **limits)
    length = length_of(tiny_model, *(f"policy.{name}={value}" for name, value in limits.items()))
    for size in SIZES:
        assert length.tokens(*size) == len(processor.prepare(make_image(*size)).prompt_ids), size


def test_that_of_the_embedded_model_is_known_before_it_is_built(tmp_path):
    from rapo.aescot.writer import phrases
    from rapo.config import TinyModelConfig
    from rapo.families.tiny_model import build_tiny_model

    build_tiny_model(tmp_path / "model", TinyModelConfig(), 0, phrases())
    processor = PolicyProcessor(tmp_path / "model", max_pixels=500_000)
    length = prompt_length(load_config(None, ["policy.max_pixels=500_000"]))
    assert length is not None
    for size in SIZES:
        assert length.tokens(*size) == len(processor.prepare(make_image(*size)).prompt_ids), size


def test_a_prompt_that_does_not_fit_is_named_with_its_size(tiny_model):
    length = length_of(tiny_model, "policy.max_pixels=1_000_000")
    length.check(84, 84)
    with pytest.raises(ImageError, match=r"1200 x 1000 pixels, its prompt \d+ tokens; .* 448") as caught:
        length.check(1200, 1000)
    assert caught.value.reason == TOO_LONG


def test_older_folders_are_read_alike(tiny_model, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(tiny_model, folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (path := folder / name).is_file():
            settings = json.loads(path.read_text())
            inner = settings.get("image_processor", settings)
            size = inner.pop("size")
            inner |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
            path.write_text(json.dumps(settings))
    assert length_of(folder) == length_of(tiny_model)


@pytest.mark.parametrize("broken", ["tokenizer.json", "chat_template.jinja", "config.json"])
def test_nothing_is_said_of_a_folder_that_cannot_be_read(tiny_model, tmp_path, broken):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / broken).write_text("{% if")
    assert prompt_length(load_config(None, [f"policy.model={folder}"])) is None


@pytest.mark.parametrize("other", ["GotOcr2ImageProcessor", "Glm4vImageProcessor"])
def test_nothing_is_said_of_a_processor_with_another_rule(tiny_model, tmp_path, other):
    """Such as one that cuts images into tiles, even where its settings have the same names."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["image_processor"]["image_processor_type"] = other
    path.write_text(json.dumps(settings))
    assert prompt_length(load_config(None, [f"policy.model={folder}"])) is None


def test_no_torch_is_needed():
    code = "import sys, rapo.models.prompt_length; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
