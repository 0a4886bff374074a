"""Weights: a weight version as bytes, packed into chunks with a manifest and unpacked with every
checksum verified.

- Tensors stream: a few parameters are gathered at a time, and at most one chunk is held beside the
  model.
- Names are those of transformers' in-memory modules. Tied parameters appear once, and adapters
  (LoRA) are merged.
- A chunk is a list of `uint8` arrays, one per tensor. Pickle passes each to the object store
  without a copy, and the reader gets views of the store's own pages.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from rapo.errors import WeightError
from rapo.policy.lora import Adapter, dense_parameters
from rapo.records import Chunk, TensorSpec, WeightManifest

#: Parameters that are gathered in one call; a call for each would wait for the network each time.
GATHER_BYTES = 2**28
_Dense = tuple[str, torch.nn.Parameter, "Adapter | None"]

# Ray maps arrays read-only, which torch does not know. `unpack` says which tensors may be written.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def checksum(data: NDArray[np.uint8]) -> str:
    """xxh3-128 of the bytes. It detects loss and mix-ups at memory speed; it is no protection
    against an attacker."""
    return xxhash.xxh3_128_hexdigest(data.data)


def model_tensors(
    model: torch.nn.Module, *, names: Container[str] | None = None, copies: bool = False, on_host: bool = True
) -> Iterator[tuple[str, torch.Tensor | None]]:
    """`(name, tensor)` for every parameter, with LoRA merged (in float32, then cast to the base's
    dtype) under the base's name, and None in place of the tensors that are not in `names` (None:
    all of them). With `copies` no tensor is the parameter's own memory; without `on_host` each
    stays on its device.

    Under ZeRO-3 parameters are gathered `GATHER_BYTES` at a time, each with its adapter, on all
    ranks together; without `names` ranks other than 0 get None.
    """
    for group in _gathers(dense_parameters(model)):
        if not hasattr(group[0][1], "ds_id"):
            for name, parameter, adapter in group:
                wanted = names is None or name in names
                yield name, _whole(parameter, adapter, copies=copies, on_host=on_host) if wanted else None
            continue
        import deepspeed

        parts = [part for _, parameter, adapter in group for part in _parts(parameter, adapter)]
        first = torch.distributed.get_rank() == 0
        with deepspeed.zero.GatheredParameters(parts):
            gathered = [
                (name, _whole(p, adapter, copies=True, on_host=on_host) if wanted else None)
                for name, p, adapter in group
                for wanted in [first if names is None else name in names]
            ]
        yield from gathered


def _gathers(dense: Iterable[_Dense]) -> Iterator[list[_Dense]]:
    """Parameters that are gathered together."""
    group: list[_Dense] = []
    size = 0
    for one in dense:
        group.append(one)
        size += getattr(one[1], "ds_numel", one[1].numel()) * one[1].element_size()
        if size >= GATHER_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _parts(parameter: torch.nn.Parameter, adapter: Adapter | None) -> list[torch.nn.Parameter]:
    return [parameter] if adapter is None else [parameter, adapter.down, adapter.up]


def _whole(parameter: torch.nn.Parameter, adapter: Adapter | None, *, copies: bool, on_host: bool) -> torch.Tensor:
    """The dense tensor; one that came from a GPU, or was merged, is a copy already."""
    tensor = _dense(parameter, adapter)
    tensor = tensor.cpu() if on_host else tensor
    shared = tensor.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
    return tensor.clone() if copies and shared else tensor


def _dense(parameter: torch.nn.Parameter, adapter: Adapter | None) -> torch.Tensor:
    return parameter.detach() if adapter is None else adapter.merge(parameter.detach())


def pack(tensors: Iterable[tuple[str, torch.Tensor]], version: int, chunk_bytes: int) -> Iterator[Any]:
    """Yield chunks of at most `chunk_bytes` (a larger tensor has a chunk of its own), then the
    `WeightManifest`.

    The arrays are views of tensors that are contiguous and on the CPU: copy a chunk, as the object
    store does, before the tensors change.
    """
    specs: list[TensorSpec] = []
    parts: list[NDArray[np.uint8]] = []
    chunk, size = 0, 0
    for name, tensor in tensors:
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        if parts and size + len(data) > chunk_bytes:
            yield parts
            parts, size, chunk = [], 0, chunk + 1
        dtype = str(tensor.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name, tuple(tensor.shape), dtype, chunk, len(parts), len(data), checksum(data)))
        parts.append(data)
        size += len(data)
    if parts:
        yield parts
        chunk += 1
    yield WeightManifest(version, tuple(specs), chunk)


def chunk_count(sizes: Iterable[int], chunk_bytes: int) -> int:
    """The number of chunks that `pack` makes of tensors of these sizes in bytes."""
    return max(_chunks_of(sizes, chunk_bytes), default=-1) + 1


def divide(sizes: Sequence[int], chunk_bytes: int, ranks: int) -> list[int]:
    """The rank that publishes each of the tensors of these sizes in bytes.

    Ranks follow each other, have about as many bytes each, and whole chunks: those that `pack`
    makes of all the tensors. Rank 0 has the first. Where there are few chunks, some have none.
    """
    total, before = sum(sizes), 0
    owners: dict[int, int] = {}
    for chunk, nbytes in zip(chunks := _chunks_of(sizes, chunk_bytes), sizes, strict=True):
        owners.setdefault(chunk, ranks * before // total if before < total else ranks - 1)
        before += nbytes
    return [owners[chunk] for chunk in chunks]


def _chunks_of(sizes: Iterable[int], chunk_bytes: int) -> list[int]:
    """The chunk in which `pack` puts each tensor."""
    chunks: list[int] = []
    chunk, size = -1, 0
    for nbytes in sizes:
        if chunk < 0 or size + nbytes > chunk_bytes:
            chunk, size = chunk + 1, 0
        size += nbytes
        chunks.append(chunk)
    return chunks


def unpack(
    manifest: WeightManifest, chunks: Iterable[Chunk], *, views: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """`(name, tensor)` pairs in the manifest's order, each verified before it is yielded.

    A chunk is released before the next one is fetched. With `views` the tensors are the chunk's own
    memory, which all readers on a node share: the receiver must not write to them. The last tensor
    of each chunk is a copy in any case, so that a receiver that still holds it does not hold the
    chunk.

    Raises `WeightError` for a missing chunk or a checksum that differs; the receiver must then
    refuse the version.
    """
    stream = iter(chunks)
    for _, group in groupby(manifest.tensors, key=lambda spec: spec.chunk):
        specs = list(group)
        chunk = next(stream, None)
        if chunk is None:
            raise WeightError(
                f"weight version {manifest.version} is incomplete: {specs[0].name} and what follows are missing"
            )
        for spec in specs:
            data = chunk[spec.place] if spec.place < len(chunk) else None
            if data is None or len(data) != spec.nbytes or checksum(data) != spec.checksum:
                raise WeightError(
                    f"weight version {manifest.version}: {spec.name} does not match its checksum; it is damaged"
                )
            yield spec.name, _tensor(data if views and spec is not specs[-1] else data.copy(), spec)
        del chunk, data


def _tensor(data: NDArray[np.uint8], spec: TensorSpec) -> torch.Tensor:
    return torch.from_numpy(data).view(getattr(torch, spec.dtype)).reshape(spec.shape)
