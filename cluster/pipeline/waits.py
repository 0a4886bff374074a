"""Waits: says what a stage waits for, as long as it has done nothing yet.

A cluster may have no room for the roles, a node may have to come, engines load weights: without a
word all of it looks like a run that hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.remote.needs import Need
from cluster.terminal.console import StageHandle

#: Seconds until the first line; each further one takes twice as long to come.
FIRST_S = 15.0
_JOIN_S = 5.0


@contextmanager
def waits_said(handle: StageHandle, needs: Sequence[Need], first_s: float = FIRST_S) -> Iterator[None]:
    """While the block runs and the stage shows no progress, say what it waits for."""
    ended = threading.Event()

    def watch() -> None:
        pause = first_s
        while not ended.wait(pause) and not handle.completed and not handle.metrics:
            handle.note(f"waits for {' and '.join(map(str, needs))} to start; {_room(needs)}")
            pause *= 2

    if not needs:
        yield
        return
    thread = threading.Thread(target=watch, name=f"waits of {handle.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_S)  # it may be asking a Ray that no longer answers


def _room(needs: Sequence[Need]) -> str:
    """What the cluster has of what is needed."""
    import ray

    if not ray.is_initialized():
        return "Ray is starting"
    there, free = ray.cluster_resources(), ray.available_resources()
    parts = []
    for kind in ("CPU", "GPU"):
        needed = sum(need.count * need.resources.get(kind, 0.0) for need in needs)
        if not needed:
            continue
        has = there.get(kind, 0.0)
        short = f", {needed:g} are needed: add nodes, or lower the workers" if has < needed else ""
        parts.append(f"{has:g} {kind}s, {free.get(kind, 0.0):g} of them free{short}")
    return f"the cluster has {'; '.join(parts)}" if parts else "they need no CPUs of their own"
