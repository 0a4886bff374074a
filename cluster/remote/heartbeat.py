"""Finds actors that are there but do nothing: stopped, or stuck beyond help. A death is told by
every call; this is not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray

from cluster.remote.ray_session import log_folder
from rapo.errors import RoleError

#: How often an actor is asked.
_PERIOD_S = 5.0


class Heartbeat:
    """Asks actors, by name, whether they are there: each has a method `ping` that answers beside
    its work."""

    def __init__(self, actors: Mapping[str, Any], limit_s: float) -> None:
        self._actors = dict(actors)
        self._limit_s = limit_s
        self._asked: dict[str, tuple[Any, float]] = {}
        self._next = 0.0

    def check(self) -> None:
        """Ask whoever has answered. Raises `RoleError` for one that has not for `limit_s`. A death
        is left to the calls that it breaks."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PERIOD_S
        pending = {ref: name for name, (ref, _) in self._asked.items()}
        answered, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0.0) if pending else ([], [])
        for ref in answered:
            del self._asked[pending[ref]]
        for name, actor in self._actors.items():
            if name not in self._asked:
                self._asked[name] = (actor.ping.remote(), now)
        late = [name for name, (_, asked) in self._asked.items() if now - asked > self._limit_s]
        if late:
            raise RoleError(
                f"{', '.join(late)} did not answer for {self._limit_s:.0f} s. Logs: {log_folder()}", kind="hung"
            )
