"""Device memory: an update that does not fit becomes an error that says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rapo.algorithm.partition import Share, part_cost
from rapo.errors import FaultKind, ResourceError, RoleError

_ADVICE = (
    "Set learner.gradient_checkpointing = true or learner.offload = 'optimizer', lower learner.micro_batch_groups or "
    "learner.micro_batch_tokens, or give the learner more ranks: all of these may change when a run is continued."
)


@contextmanager
def device_memory_named(share: Share, splits: int) -> Iterator[None]:
    """Replace torch's error: by `RoleError` (`FaultKind.OUT_OF_MEMORY`) where the micro-batches of
    `share`, each in `splits` parts, can be made smaller, else by `ResourceError`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        groups = -(-len(share.groups) // (share.micro_batches * splits))
        longest = max((part_cost([one], rows=share.rows) for one in share.groups), default=0)
        reason = str(error).partition(". ")[0]
        words = f"too little memory for a micro-batch of {groups} group(s), the longest of {longest} tokens ({reason})"
        if groups <= 1:
            raise ResourceError(f"a learner rank has {words}. {_ADVICE}") from error
        raise RoleError(f"{words}. {_ADVICE}", kind=FaultKind.OUT_OF_MEMORY) from error
