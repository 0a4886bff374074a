"""PinnedCopies: copies of a GPU's tensors in pinned memory of the host, which is used again.

- Memory is used again once nothing refers to what was copied into it: no tensor, view or array, in
  whatever thread. What is still published, or written to a disk, is never overwritten.
- Pinned memory is slow to get, so none is given back.
- Copies run on a stream of their own, beside the GPU's other work. They are complete when a caller
  gets them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
Name = TypeVar("Name")

#: torch views bytes as another dtype only where they begin at a multiple of its size.
_ALIGN = 64
#: Bytes that may be under way. Meanwhile they keep their memory on the GPU.
_UNDER_WAY = 2**28


class Stream(Protocol):
    def copy(self, host: torch.Tensor, tensor: torch.Tensor) -> None:
        """Begin to copy `tensor` to `host`; its memory is not given to others before that ends."""

    def wait(self) -> None:
        """Return once all copies are complete."""


class SideStream:
    """A stream of the current GPU, beside the one on which it computes."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def copy(self, host: torch.Tensor, tensor: torch.Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)

    def wait(self) -> None:
        self._stream.synchronize()


def pinned_memory(nbytes: int) -> torch.Tensor:
    """Memory of the host as `uint8`; ordinary memory, and a warning, where it cannot be pinned."""
    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        logger.warning("%d bytes of the host's memory cannot be pinned, copies take longer: %s", nbytes, error)
        return torch.empty(nbytes, dtype=torch.uint8)


class _Lease:
    """Memory that is free again when nothing refers to the lease; arrays made of it do."""

    def __init__(self, memory: torch.Tensor, free: list[torch.Tensor]) -> None:
        self.__array_interface__ = memory.numpy().__array_interface__
        self._memory, self._free = memory, free

    def __del__(self) -> None:
        self._free.append(self._memory)


class PinnedCopies:
    """Copies what lies on `device`. One thread copies; any thread may let go of copies."""

    def __init__(
        self,
        device: torch.device,
        allocate: Callable[[int], torch.Tensor] = pinned_memory,
        stream: Stream | None = None,
    ) -> None:
        self.device = device
        self._allocate = allocate
        self._stream = stream or SideStream()
        self._free: list[torch.Tensor] = []

    def copied(
        self, tensors: Iterable[tuple[Name, torch.Tensor]], sizes: Iterable[int]
    ) -> list[tuple[Name, torch.Tensor]]:
        """Copies of named tensors, which have `sizes` in bytes; each has a storage of its own."""
        sizes = list(sizes)
        memory = self._lease(sum(_room(size) for size in sizes) or _ALIGN)
        copies: list[tuple[Name, torch.Tensor]] = []
        offset = under_way = 0
        for (name, tensor), size in zip(tensors, sizes, strict=True):
            host = torch.from_numpy(memory[offset : offset + size]).view(tensor.dtype).reshape(tensor.shape)
            self._stream.copy(host, tensor)
            copies.append((name, host))
            offset += _room(size)
            under_way += size
            if under_way >= _UNDER_WAY:
                self._stream.wait()
                under_way = 0
        self._stream.wait()
        return copies

    def _lease(self, nbytes: int) -> NDArray[np.uint8]:
        """Memory that nothing refers to. Sizes do not change from step to step."""
        for place, memory in enumerate(self._free):
            if memory.numel() == nbytes:
                del self._free[place]
                break
        else:
            memory = self._allocate(nbytes)
        return np.asarray(_Lease(memory, self._free))


def _room(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
