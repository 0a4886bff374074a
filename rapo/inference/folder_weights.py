"""The tensors of a model folder, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from rapo.models.folder import check_model_folder


def folder_tensors(folder: str | Path) -> Iterator[tuple[str, Any]]:
    """`(name, torch tensor)` pairs of every safetensors file of a model folder, under their names
    on disk."""
    check_model_folder(folder)
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                yield name, tensors.get_tensor(name)
