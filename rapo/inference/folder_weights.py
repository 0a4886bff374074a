"""Folder weights: reads the tensors of a model folder, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from rapo.models.folder import check_model_folder
from rapo.models.weight_files import weight_files

if TYPE_CHECKING:
    import torch


def folder_tensors(folder: str | Path) -> Iterator[tuple[str, torch.Tensor]]:
    """`(name, tensor)` pairs of a model folder's safetensors files, under their names on disk.

    Raises `ModelError` where the folder holds no model that rapo trains.
    """
    check_model_folder(folder)
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                yield name, tensors.get_tensor(name)
