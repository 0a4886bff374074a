"""SparseFolder: a model folder of published size whose file of weights holds only its header.

The tensors are a hole in the file, which takes no room on a disk and reads as zeros.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from rapo.models.completeness import model_class
from rapo.models.weight_files import SINGLE
from rapo.policy.lora import dense_parameters
from tests.tiny_families import PUBLISHED_NAMES

Shapes = Mapping[str, tuple[int, ...]]


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """A model of this configuration on the meta device, in bfloat16."""
    with torch.device("meta"):
        model: PreTrainedModel = model_class(config)._from_config(deepcopy(config), dtype=torch.bfloat16)
    return model


def published_shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of the published model, by the names that it has there; tied ones once."""
    ours, theirs = PUBLISHED_NAMES.get(config.model_type, ("", ""))
    shapes = {name: tuple(parameter.shape) for name, parameter, _ in dense_parameters(empty_model(config))}
    return {name.replace(ours, theirs) if ours else name: shape for name, shape in shapes.items()}


def write_folder(folder: Path, config: PretrainedConfig, shapes: Shapes) -> Path:
    """A folder that holds `shapes` in bfloat16."""
    own = deepcopy(config)
    own.architectures = [model_class(config).__name__]
    own.save_pretrained(folder)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    write_weights(folder / SINGLE, shapes)
    return folder


def write_weights(file: Path, shapes: Shapes) -> None:
    """A file of safetensors with these tensors, in bfloat16."""
    header, end = dict[str, object](), 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(content).to_bytes(8, "little") + content)
        out.truncate(8 + len(content) + end)
