"""Who gets which work: each piece goes to the worker with the least to do, among those that may do
it."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable

from cluster.rollout.tasks import EvalShard, QueuedTask, Task
from cluster.rollout.worker_handle import WorkerHandle


def assign(
    queue: deque[QueuedTask],
    free: Iterable[WorkerHandle],
    most: int,
    may: Callable[[WorkerHandle, Task | EvalShard], bool],
    send: Callable[[WorkerHandle, QueuedTask], None],
) -> None:
    """Take out of `queue` what a worker of `free` may do, in order; no worker gets more than `most`
    calls. What stays keeps its order. The time goes with the work and the logarithm of the workers,
    not with their product: there may be hundreds of both."""
    heap = [(len(member.calls), member.number, member) for member in free]
    heapq.heapify(heap)
    kept: deque[QueuedTask] = deque()
    in_vain = math.inf  # the least version that no free worker has
    while queue and heap:
        item = queue.popleft()
        if isinstance(item.work, Task) and item.work.needs >= in_vain:
            kept.append(item)
            continue
        passed = []
        while heap and not may(heap[0][2], item.work):
            passed.append(heapq.heappop(heap))
        if heap:
            load, number, member = heapq.heappop(heap)
            send(member, item)
            if load + 1 < most:
                passed.append((load + 1, number, member))
        else:
            kept.append(item)
            if isinstance(item.work, Task):
                in_vain = min(in_vain, item.work.needs)
        for entry in passed:
            heapq.heappush(heap, entry)
    queue.extendleft(reversed(kept))
