"""A weight version as bytes: packed into chunks with a manifest, unpacked with every checksum verified.

Tensors stream: one parameter is gathered at a time, and no more than one chunk is held beside the model. Names are those of
transformers' in-memory modules; tied parameters appear once, and adapters (LoRA) are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from rapo.errors import WeightError
from rapo.policy.lora import Adapter, dense_parameters
from rapo.records import TensorSpec, WeightManifest

_ALIGN = 64  # so that every tensor can be viewed in place whatever its dtype


def checksum(data: NDArray[np.uint8]) -> str:
    """xxh3-128 of the bytes: integrity against loss and mix-ups at memory speed, not against an attacker."""
    return xxhash.xxh3_128_hexdigest(data.data)


def model_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor | None]]:
    """`(name, tensor on CPU)` for every parameter, LoRA merged in (in float32, then the base's dtype) under the base's name.

    Under ZeRO-3 each is gathered alone, with its adapter, on all ranks together; ranks other than 0 get None.
    """
    for name, parameter, adapter in dense_parameters(model):
        if not hasattr(parameter, "ds_id"):
            yield name, _dense(parameter, adapter).cpu()
            continue
        import deepspeed

        parts = [parameter] if adapter is None else [parameter, adapter.down, adapter.up]
        with deepspeed.zero.GatheredParameters(parts):
            whole = _dense(parameter, adapter).cpu().clone() if torch.distributed.get_rank() == 0 else None
        yield name, whole


def _dense(parameter: torch.nn.Parameter, adapter: Adapter | None) -> torch.Tensor:
    return parameter.detach() if adapter is None else adapter.merge(parameter.detach())


def pack(tensors: Iterable[tuple[str, torch.Tensor]], version: int, chunk_bytes: int) -> Iterator[Any]:
    """Yield chunks (`uint8` arrays of about `chunk_bytes`, a larger tensor has one of its own), then the `WeightManifest`."""
    specs: list[TensorSpec] = []
    parts: list[NDArray[np.uint8]] = []
    chunk, size = 0, 0
    for name, tensor in tensors:
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        if parts and size + len(data) > chunk_bytes:
            yield _join(parts, size)
            parts, size, chunk = [], 0, chunk + 1
        dtype = str(tensor.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name, tuple(tensor.shape), dtype, chunk, size, len(data), checksum(data)))
        parts.append(data)
        size += -(-len(data) // _ALIGN) * _ALIGN
    if parts:
        yield _join(parts, size)
        chunk += 1
    yield WeightManifest(version, tuple(specs), chunk)


def chunk_count(sizes: Iterable[int], chunk_bytes: int) -> int:
    """How many chunks `pack` makes of tensors of these sizes in bytes."""
    count, size = 0, 0
    for nbytes in sizes:
        if count == 0 or size + nbytes > chunk_bytes:
            count, size = count + 1, 0
        size += -(-nbytes // _ALIGN) * _ALIGN
    return count


def _join(parts: Sequence[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    joined = np.zeros(size, dtype=np.uint8)
    offset = 0
    for part in parts:
        joined[offset : offset + len(part)] = part
        offset += -(-len(part) // _ALIGN) * _ALIGN
    return joined


def unpack(manifest: WeightManifest, chunks: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[str, torch.Tensor]]:
    """`(name, tensor)` pairs in the manifest's order, each verified before it is handed out.

    Raises `WeightError` for a missing chunk or a checksum that differs; the receiver must then refuse the version.
    """
    pending = iter(manifest.tensors)
    spec = next(pending, None)
    for index, chunk in enumerate(chunks):
        while spec is not None and spec.chunk == index:
            data = chunk[spec.offset : spec.offset + spec.nbytes]
            if len(data) != spec.nbytes or checksum(np.ascontiguousarray(data)) != spec.checksum:
                raise WeightError(
                    f"weight version {manifest.version}: {spec.name} does not match its checksum; it is damaged"
                )
            yield spec.name, _tensor(data, spec)
            spec = next(pending, None)
    if spec is not None:
        raise WeightError(f"weight version {manifest.version} is incomplete: {spec.name} and what follows are missing")


def _tensor(data: NDArray[np.uint8], spec: TensorSpec) -> torch.Tensor:
    # Ray maps arrays read-only; torch wants to own what it may write, and readers only copy from it.
    return torch.from_numpy(data.copy()).view(getattr(torch, spec.dtype)).reshape(spec.shape)
