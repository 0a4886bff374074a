"""HostCopies: keeps what DeepSpeed would write to files in the host's memory instead.

- The copies share storages where the originals do, so that they make the same files.
- What the next step changes is copied before `save` returns.
- Importing this module imports DeepSpeed, so that the process must be prepared for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

T = TypeVar("T")


class HostCopies(CheckpointEngine):
    """Takes the place of DeepSpeed's own checkpoint engine for one `save_checkpoint`. `files` are
    the contents of the files, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, object] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        return None

    def save(self, state_dict: object, path: str) -> None:
        self.files[Path(path).name] = on_host(state_dict)

    def load(self, path: str, map_location: object = None) -> NoReturn:
        raise NotImplementedError("a copy in memory is not loaded from")

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True


def on_host(value: T) -> T:
    """A copy of `value`, with every tensor in its containers on the CPU, that shares nothing with
    it."""
    storages: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}
    # deepcopy takes what is in its memo for the copy.
    return copy.deepcopy(value, {id(tensor): _copied(tensor, storages) for tensor in _tensors(value)})


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _copied(tensor: torch.Tensor, storages: dict[tuple[torch.device, int, int], torch.UntypedStorage]) -> torch.Tensor:
    """The tensor on a copy of its storage, of which there is one for all tensors that share it."""
    own = tensor.untyped_storage()
    key = own.device, own.data_ptr(), own.nbytes()
    if key not in storages:
        storages[key] = own.clone() if own.device.type == "cpu" else own.cpu()
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(storages[key], tensor.storage_offset(), tensor.shape, tensor.stride())
