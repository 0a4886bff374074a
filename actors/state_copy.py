"""StateCopy: a rank's training state once more, in the object store of another node.

- The copy is the result of a task. So it belongs to the process that asked for it, outlives ranks
  and workers, and is not evicted, as an argument that a node has pulled may be.
- It is not made anew where it is lost: the caller knows what else there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from ray import ObjectRef

    from rapo.policy.state import StateFiles


def _keep(copied: int, files: StateFiles) -> tuple[int, StateFiles]:
    return copied, files


# Once: Ray exports every new one to the whole cluster.
_KEEP = ray.remote(num_cpus=0, num_returns=2, max_retries=0)(_keep)


def copy_on(
    node: str, copied: ObjectRef[int], files: ObjectRef[StateFiles]
) -> tuple[ObjectRef[int], ObjectRef[StateFiles]]:
    """The receipt and the files of a rank's `state`, on the node with this id."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    refs: object = _KEEP.options(scheduling_strategy=there).remote(copied, files)
    receipt, copy = cast("tuple[ObjectRef[int], ObjectRef[StateFiles]]", refs)
    return receipt, copy
