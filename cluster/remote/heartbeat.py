"""Heartbeat: finds actors that are there but answer nothing, stopped or stuck.

A death ends every call of the actor by itself; a hang does not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import ray
from ray import ObjectRef

from cluster.remote.ray_session import log_folder
from cluster.remote.waiting import Waiting
from rapo.errors import FaultKind, RoleError

if TYPE_CHECKING:
    from ray.actor import ActorHandle

T = TypeVar("T")

_PERIOD_S = 5.0


class Heartbeat:
    """Pings actors, by name: each has a method `ping` that answers beside its work."""

    def __init__(self, actors: Mapping[str, ActorHandle], limit_s: float) -> None:
        self._actors = dict(actors)
        self._limit_s = limit_s
        self._pending: dict[str, tuple[ObjectRef, float]] = {}
        self._next = 0.0

    def watch(self, waiting: Waiting[T]) -> Waiting[T]:
        """`waiting`, with a `check` at each of its looks."""
        while True:
            try:
                pending = next(waiting)
            except StopIteration as end:
                return end.value
            self.check()
            yield pending

    def check(self) -> None:
        """Ping every actor whose last ping is answered. Raises `RoleError` for one that has not
        answered for `limit_s`; a death is left to the calls that it breaks."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PERIOD_S
        pending = {ref: name for name, (ref, _) in self._pending.items()}
        answered, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0.0) if pending else ([], [])
        for ref in answered:
            del self._pending[pending[ref]]
        for name, actor in self._actors.items():
            if name not in self._pending:
                self._pending[name] = (actor.ping.remote(), now)
        late = [name for name, (_, sent_at) in self._pending.items() if now - sent_at > self._limit_s]
        if late:
            raise RoleError(
                f"{', '.join(late)} did not answer for {self._limit_s:.0f} s. Logs: {log_folder()}",
                kind=FaultKind.HUNG,
            )
