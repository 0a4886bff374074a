"""Split weights: hands a weight version to the workers of an engine that run in processes of their
own (tensor parallelism).

- An iterator does not travel to another process, and a whole model as an argument would be pickled
  for each worker. So the tensors go part by part through a file in shared memory, which every
  worker maps: at most `PART_BYTES` and the largest tensor lie beside the model.
- A worker answers with the text of what is wrong, because vLLM passes no error types on. Then all
  workers give the version up, so that the next one can be loaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rapo.errors import WeightError

if TYPE_CHECKING:
    from vllm import LLM

PART_BYTES = 256 * 2**20
_MEMORY = Path("/dev/shm")
# torch views bytes as another dtype only where they begin at a multiple of its size.
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor lies in the file of a part."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int


def load_in_parts(llm: LLM, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load `(name, tensor)` pairs into every worker. Raises `WeightError` where a worker does not
    take them, and what `weights` raises."""
    _ask(llm, "rapo_begin_weights")
    try:
        for tensors in _parts(weights):
            with _shared(tensors) as (path, slots):
                _ask(llm, "rapo_load_part", str(path), slots)
        _ask(llm, "rapo_finish_weights")
    except BaseException:
        llm.collective_rpc("rapo_abandon_weights")
        raise


def mapped(path: str, slots: Sequence[Slot]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a part, as views of the file. They stay valid when it is removed."""
    memory = np.memmap(path, np.uint8, mode="c")  # private: a write would not reach the other workers
    for slot in slots:
        data = torch.from_numpy(memory[slot.offset : slot.offset + slot.nbytes])
        yield slot.name, data.view(getattr(torch, slot.dtype)).reshape(slot.shape)


def _ask(llm: LLM, method: str, *arguments: object) -> None:
    answers: list[str | None] = llm.collective_rpc(method, args=arguments)
    problems = sorted({answer for answer in answers if answer is not None})
    if problems:
        raise WeightError("; ".join(problems))


def _parts(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[list[tuple[str, torch.Tensor]]]:
    part: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in weights:
        part.append((name, tensor))
        size += tensor.nbytes
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


@contextmanager
def _shared(tensors: Sequence[tuple[str, torch.Tensor]]) -> Iterator[tuple[Path, list[Slot]]]:
    """The tensors in a file, which is removed afterwards."""
    place = _MEMORY if _MEMORY.is_dir() else None
    slots: list[Slot] = []
    with tempfile.NamedTemporaryFile(prefix="rapo-weights-", dir=place) as file:
        for name, tensor in tensors:
            file.seek(-(-file.tell() // _ALIGN) * _ALIGN)
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            dtype = str(tensor.dtype).removeprefix("torch.")
            slots.append(Slot(name, tuple(tensor.shape), dtype, file.tell(), len(data)))
            file.write(data.data)
        file.flush()
        yield Path(file.name), slots
