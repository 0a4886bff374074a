"""Scheduler: gives each queued task to the worker with the least to do, among the eligible ones."""

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
    eligible: Callable[[WorkerHandle, Task | EvalShard], bool],
    send: Callable[[WorkerHandle, QueuedTask], None],
) -> None:
    """Take out of `queue`, in order, what a worker of `free` may do; no worker gets more than
    `most` calls. What stays keeps its order.

    The time grows with the tasks and the logarithm of the workers, not with their product: there
    may be hundreds of both.
    """
    heap = [(len(worker.calls), worker.number, worker) for worker in free]
    heapq.heapify(heap)
    kept: deque[QueuedTask] = deque()
    missing = math.inf  # the lowest version that no free worker has
    while queue and heap:
        queued = queue.popleft()
        if isinstance(queued.task, Task) and queued.task.min_version >= missing:
            kept.append(queued)
            continue
        passed = []
        while heap and not eligible(heap[0][2], queued.task):
            passed.append(heapq.heappop(heap))
        if heap:
            load, number, worker = heapq.heappop(heap)
            send(worker, queued)
            if load + 1 < most:
                passed.append((load + 1, number, worker))
        else:
            kept.append(queued)
            if isinstance(queued.task, Task):
                missing = min(missing, queued.task.min_version)
        for entry in passed:
            heapq.heappush(heap, entry)
    queue.extendleft(reversed(kept))
