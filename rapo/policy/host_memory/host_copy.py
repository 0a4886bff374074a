"""HostCopies: keeps what DeepSpeed would write to files in the host's memory instead.

- The copies share storages where the originals do, so that they make the same files.
- What the next step changes is copied before `save` returns.
- What lies on a GPU is copied to pinned memory (`rapo.policy.host_memory.pinned_copies`).
- Importing this module imports DeepSpeed, so that the process must be prepared for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from rapo.policy.host_memory.pinned_copies import PinnedCopies

T = TypeVar("T")
_Key = tuple[torch.device, int, int]


class HostCopies(CheckpointEngine):
    """Takes the place of DeepSpeed's own checkpoint engine for one `save_checkpoint`. `files` are
    the contents of the files, by name."""

    def __init__(self, pinned: PinnedCopies | None = None) -> None:
        super().__init__()
        self._pinned = pinned
        self.files: dict[str, object] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        return None

    def save(self, state_dict: object, path: str) -> None:
        self.files[Path(path).name] = on_host(state_dict, self._pinned)

    def load(self, path: str, map_location: object = None) -> NoReturn:
        raise NotImplementedError("a copy in memory is not loaded from")

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True


def on_host(value: T, pinned: PinnedCopies | None = None) -> T:
    """A copy of `value`, with every tensor in its containers on the CPU, that shares nothing with
    it. Copies are made by `pinned` of what lies on its device."""
    tensors = list(_tensors(value))
    storages = {_key(own): own for own in (tensor.untyped_storage() for tensor in tensors)}
    copies = {} if pinned is None else _pinned(storages, pinned)
    for key, own in storages.items():
        if key not in copies:
            copies[key] = own.clone() if own.device.type == "cpu" else own.cpu()
    # deepcopy takes what is in its memo for the copy.
    return copy.deepcopy(value, {id(tensor): _placed(tensor, copies) for tensor in tensors})


def _pinned(storages: Mapping[_Key, torch.UntypedStorage], pinned: PinnedCopies) -> dict[_Key, torch.UntypedStorage]:
    there = {key: own for key, own in storages.items() if own.device == pinned.device and own.nbytes()}
    contents = ((key, torch.empty(0, dtype=torch.uint8, device=own.device).set_(own)) for key, own in there.items())
    copies = pinned.copied(contents, [own.nbytes() for own in there.values()])
    return {key: copied.untyped_storage() for key, copied in copies}


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _key(storage: torch.UntypedStorage) -> _Key:
    return storage.device, storage.data_ptr(), storage.nbytes()


def _placed(tensor: torch.Tensor, copies: Mapping[_Key, torch.UntypedStorage]) -> torch.Tensor:
    """The tensor on the copy of its storage, of which there is one for all that share it."""
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(copies[_key(tensor.untyped_storage())], tensor.storage_offset(), tensor.shape, tensor.stride())
