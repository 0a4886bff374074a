"""Export: writes a weight version as a model folder that plain transformers and vLLM load."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import GenerationConfig

from rapo.errors import WeightError
from rapo.families.registry import family_of
from rapo.models.completeness import empty_model, model_class, read_config
from rapo.policy.processing import PolicyProcessor
from rapo.policy.weight_packing import Chunk, unpack
from rapo.records import WeightManifest


def write_model(folder: Path, source: Path, manifest: WeightManifest, chunks: Iterable[Chunk]) -> None:
    """Write model, tokenizer and processor to `folder`; configuration and processor come from
    `source`.

    Raises `WeightError` where the names of the version's tensors and of the model's parameters
    differ, and where a checksum does; nothing is written then.
    """
    tensors = dict(unpack(manifest, chunks))
    config = read_config(source)
    if family_of(config).keeps_stored_names:
        model = empty_model(source)
    else:
        with torch.device("meta"):
            model = model_class(config)(config)
    expected = {name for name, _ in model.named_parameters()}
    if expected != tensors.keys():
        differing = sorted(expected ^ tensors.keys())
        raise WeightError(
            f"weight version {manifest.version} does not fit {source}: {len(differing)} names differ {differing[:5]}"
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    if (source / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source, local_files_only=True)
    model.save_pretrained(folder)
    PolicyProcessor(source).save(folder)
    # The library of the weights' format lets nobody but their owner read them.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)
