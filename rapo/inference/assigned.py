"""Assigned elements: tells a layer that a load of weights has filled in part from a whole one.

vLLM counts the elements that arrive for a layer, and ends the load of a layer that has them all. It
counts buffers that no file holds, such as the positions of patches, among those to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import torch


class LayerLoad(Protocol):
    """What vLLM keeps of a layer's load (its `LayerReloadingInfo`); `load_numel_total` is None
    where the layer is not being loaded."""

    @property
    def load_numel(self) -> int: ...

    @property
    def load_numel_total(self) -> int | None: ...

    @property
    def loaded_weights(self) -> Sequence[tuple[str, object]]: ...

    @property
    def kernel_non_persistent_buffers(self) -> AbstractSet[str]: ...


def in_part(layer: torch.nn.Module, load: LayerLoad, uncounted: AbstractSet[str]) -> bool:
    """Whether some but not all elements of a layer were assigned. `uncounted` are the names of
    tensors that `load_numel_total` leaves out."""
    if load.load_numel_total is None or hasattr(layer, "org_vocab_size"):  # a vocabulary's padding has no weights
        return False
    # Only what the layer holds now was counted: vLLM takes away buffers that alias a parameter.
    kept = load.kernel_non_persistent_buffers - uncounted - {name for name, _ in load.loaded_weights}
    buffers = layer.named_buffers(recurse=False, remove_duplicate=False)
    unfilled = sum(buffer.numel() for name, buffer in buffers if name in kept)
    return 0 < load.load_numel < load.load_numel_total - unfilled
