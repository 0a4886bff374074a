"""What Ray's calls cost the driver, with nothing of rapo around them.

    python -m bench.scale.calls [--calls 2000]

An actor answers as a rollout worker does: a receipt and a group of 6 kB, after 50 ms. The calls'
ends come through `CompletionQueue`, 256 groups are under way. In a batch one call has several
groups and returns all their receipts at once, and each group as an object of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.scale.__main__ import images, settings
from bench.support import record

_UNDER_WAY = 256


def measure(submit: Callable[[int], tuple[Any, Any]], calls: int, groups: int) -> dict[str, float]:
    """CPU milliseconds per group of `calls` calls with `groups` groups each. `submit` gives the ref
    that ends and what must be kept until then."""
    from cluster.remote.completions import CompletionQueue

    queue: CompletionQueue[int] = CompletionQueue()
    kept: deque[Any] = deque(maxlen=2 * _UNDER_WAY)
    sent = done = 0
    thread, process = time.thread_time(), time.process_time()
    while done < calls:
        while sent < calls and sent - done < _UNDER_WAY // groups:
            ref, other = submit(sent)
            kept.append(other)
            queue.watch(ref, sent)
            sent += 1
        done += len(queue.take(1.0))
    scale = 1000 / (calls * groups)
    return {
        "thread, ms": scale * (time.thread_time() - thread),
        "process, ms": scale * (time.process_time() - process),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="groups of each row")
    options = parser.parse_args(arguments)
    from cluster.remote.ray_session import ray_session

    with ray_session(settings(1, 1)):
        import ray

        from actors.messages import GroupReceipt

        class Worker:
            """Answers after 50 ms."""

            async def ping(self) -> None:
                return None

            async def generate(self, tasks: Sequence[object], *data: object) -> tuple[object, ...]:
                await asyncio.sleep(0.05)
                receipts = [GroupReceipt(1, 128, 1.0, 1.0, "rollout-0") for _ in tasks]
                return (receipts, *[b"x" * 6000 for _ in tasks])

        worker: Any = ray.remote(Worker).options(num_cpus=0, max_concurrency=10_000).remote()
        ray.get(worker.ping.remote(), timeout=60)
        image = ray.put(np.zeros(16_384, np.uint8))
        bare = dataclasses.replace(images(1)[0], data=None)
        rows: list[dict[str, Any]] = [
            {"call": "ping"} | measure(lambda number: (worker.ping.remote(), None), options.calls, 1)
        ]
        for groups in (1, 4, 16):
            method = worker.generate.options(num_returns=groups + 1)

            def submit(number: int, groups: int = groups, method: Any = method) -> tuple[Any, Any]:
                refs = method.remote([(bare, number)] * groups, *[image] * groups)
                return refs[0], refs[1:]

            rows.append({"call": f"{groups} groups"} | measure(submit, options.calls // groups, groups))
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
