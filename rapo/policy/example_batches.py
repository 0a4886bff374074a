"""ExampleBatches: a cold-start step's examples in micro-batches that fit a number of tokens.

- All ranks run as many micro-batches, because their collective calls must match. Each has at least
  one example, since every rank has as many examples.
- What is padded counts: a micro-batch of rows costs its longest row for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def split_evenly(count: int, most: int) -> list[range]:
    """The indices 0 to `count` in runs of `most`; the last may be shorter."""
    return [range(start, min(start + most, count)) for start in range(0, count, most)]


def split_by_tokens(lengths: Sequence[int], most: int, tokens: int, *, padded: bool) -> list[list[int]]:
    """The indices of `lengths` in parts of at most `most` and of at most `tokens` tokens; a longer
    one has a part of its own. Neighbours in a part are of like length.

    The number of parts is the same on all ranks of the process group, whose call this is.
    """
    order = [int(i) for i in np.argsort(lengths, kind="stable")]
    count = -(-len(order) // most)
    while not all(_fits(part, lengths, tokens, padded) for part in _parts(order, count)):
        count += 1
    agreed = torch.tensor(count)
    if torch.distributed.is_initialized():
        agreed = agreed.to(_device())
        torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MAX)
    return _parts(order, min(int(agreed), len(order)))


def _parts(order: Sequence[int], count: int) -> list[list[int]]:
    return [[int(i) for i in part] for part in np.array_split(np.asarray(order), count)]


def _fits(part: Sequence[int], lengths: Sequence[int], tokens: int, padded: bool) -> bool:
    own = [lengths[i] for i in part]
    cost = max(own) * len(own) if padded else sum(own)
    return len(own) == 1 or cost <= tokens


def _device() -> torch.device:
    from rapo.policy.distributed import device

    return device()
