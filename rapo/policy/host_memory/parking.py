"""Parking: moves a rank's tensors out of its device's memory and back, between two steps.

- Storages are emptied and filled again, never replaced: views, DeepSpeed's flat buffers and the
  optimiser's references stay as they are.
- A GPU's copies in the host's memory are kept for the next time: pinned memory is slow to get.
- What lies elsewhere than on the device stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from rapo.policy.forward import GroupPolicy

#: A storage on the device, and its bytes in the host's memory.
_Place = tuple[torch.UntypedStorage, torch.Tensor]
#: A storage whose content nobody needs, and its size.
_Scratch = tuple[torch.UntypedStorage, int]


class Parking:
    """The tensors of `device` that are on it, or parked in the host's memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._places: dict[int, _Place] = {}
        self._scratch: dict[int, _Scratch] = {}
        self._parked = False

    def leave(self, tensors: Iterable[torch.Tensor], scratch: Iterable[torch.Tensor] = ()) -> None:
        """Empty the storages of `tensors`, which must not be used until `come_back`, and those of
        `scratch`, which come back with any content."""
        if self._parked:
            return
        self._parked = True
        self._places = {key: self._place(key, storage) for key, storage in self._storages(tensors)}
        for storage, host in self._places.values():
            host.copy_(_bytes(storage))
            storage.resize_(0)
        self._scratch = {key: (storage, storage.nbytes()) for key, storage in self._storages(scratch)}
        for storage, _ in self._scratch.values():
            storage.resize_(0)
        if self._on_gpu:
            torch.cuda.empty_cache()

    def come_back(self) -> None:
        """Fill the storages again, if they are empty."""
        if not self._parked:
            return
        for storage, host in self._places.values():
            storage.resize_(host.numel())
            _bytes(storage).copy_(host)
        for storage, size in self._scratch.values():
            storage.resize_(size)
        self._parked = False
        if not self._on_gpu:
            self._places.clear()

    def _storages(self, tensors: Iterable[torch.Tensor]) -> Iterator[tuple[int, torch.UntypedStorage]]:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            # On a CPU a storage may be a file that is mapped into memory, of a fixed size.
            if storage.device == self._device and storage.nbytes() and storage.resizable():
                yield storage._cdata, storage

    def _place(self, key: int, storage: torch.UntypedStorage) -> _Place:
        known = self._places.get(key)
        if known is not None and known[1].numel() == storage.nbytes():
            return storage, known[1]
        return storage, torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=self._on_gpu)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def training_tensors(
    engine: DeepSpeedEngine, reference: GroupPolicy | DeepSpeedEngine | None
) -> Iterator[torch.Tensor]:
    """The tensors that a rank holds between two steps: parameters, or its share of them under
    ZeRO-3, buffers, and the optimiser's."""
    for module in (engine.module, reference):
        if module is not None:
            for parameter in module.parameters():
                yield parameter.data
                yield from _tensors(getattr(parameter, "ds_tensor", None))
            yield from module.buffers()
    yield from _tensors(vars(engine.optimizer))


def scratch_tensors(engine: DeepSpeedEngine) -> Iterator[torch.Tensor]:
    """The buffers in which ZeRO gathers gradients, which stage 3 keeps between two steps."""
    for bucket in getattr(engine.optimizer, "ipg_buckets", {}).values():
        yield from _tensors(bucket.buffer)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors in `value`: itself, in containers, and in an optimiser."""
    if isinstance(value, torch.Tensor):
        yield value.data
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, torch.optim.Optimizer):
        yield from _tensors([value.param_groups, value.state])
