"""Model folders: checks that a folder is a model that rapo trains, or asks, without torch or
transformers.

It takes milliseconds. `rapo.models.completeness` compares the tensors with the architecture, which
needs transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rapo.errors import ModelError
from rapo.models.weight_files import INDEX, SINGLE, stored_tensors

# What vLLM loads.
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def check_model_path(folder: str | Path) -> None:
    """Raise `ModelError` where a path holds characters of glob patterns: vLLM looks for weights by
    patterns below it, and would find none."""
    path = str(Path(folder).absolute())
    if found := sorted(set(path) & set("*?[]")):
        raise ModelError(
            f"{path} holds {' '.join(found)}, which vLLM takes for a pattern when it looks for weights: give a path "
            "without such characters"
        )


def check_model_folder(folder: str | Path) -> None:
    """Raise `ModelError` unless the folder looks like a vision-language model in the transformers
    format, with whole files of weights."""
    path, config = Path(folder), _configuration(folder, "policy.model takes 'embedded' or a local folder")
    if "vision_config" not in config:
        raise ModelError(
            f"{folder} holds a {config.get('model_type')!r} model, whose config.json has no vision_config: it takes no "
            "images, or is not in the transformers format."
        )
    if "auto_map" in config:
        raise ModelError(
            f"{folder} holds a model with code of its own (auto_map in config.json), which rapo does not run. Take the "
            "version of the model for transformers, often named '-HF'."
        )
    if "quantization_config" in config:
        raise ModelError(f"{folder} holds quantised weights, which cannot be trained; take the model in bfloat16.")
    stored_tensors(path)
    if not (path / "tokenizer_config.json").is_file():
        raise ModelError(f"{folder} holds no tokenizer_config.json: copy the tokenizer beside the weights.")
    if not any((path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ModelError(f"{folder} holds no image processor (preprocessor_config.json).")


def check_chat_folder(folder: str | Path) -> None:
    """Raise `ModelError` unless the folder looks like a model in the transformers format, of any
    architecture, for a teacher or a judge in vLLM."""
    what = "Kind 'vllm' takes a local folder with a vision-language model"
    path, config = Path(folder), _configuration(folder, what)
    if not config.get("architectures"):
        raise ModelError(f"{path / 'config.json'} names no architecture. {what}.")
    if not any(found for pattern in _WEIGHTS for found in path.glob(pattern)):
        raise ModelError(f"{folder} holds no weights ({', '.join(_WEIGHTS)}).")
    if (path / SINGLE).is_file() or (path / INDEX).is_file():
        stored_tensors(path)


def model_type(folder: str | Path) -> str:
    """The `model_type` of a folder, which names its family. Raises `ModelError` without a
    configuration."""
    return str(_configuration(folder, "A model folder is wanted").get("model_type"))


def architectures(folder: str | Path) -> list[str]:
    """The classes that a folder's config.json names. Raises `ModelError` without a
    configuration."""
    named = _configuration(folder, "A model folder is wanted").get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def _configuration(folder: str | Path, what: str) -> Mapping[str, object]:
    """The content of config.json. `what` says which folders are taken."""
    path = Path(folder)
    check_model_path(path)
    if not path.is_dir():
        raise ModelError(f"model folder not found: {folder}. {what}.")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no config.json: it is no model folder in the transformers format.") from error
    except ValueError as error:
        raise ModelError(f"{path / 'config.json'} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'} holds no JSON object: it is no model configuration.")
    return config
