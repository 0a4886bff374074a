"""Heartbeat: finds actors that are there but answer nothing or get no further.

- A death ends every call of the actor by itself; a hang does not.
- A process that waits in a collective call for a peer answers every ping. So an answer may say how
  long the actor has been at one piece of its work.
"""

from __future__ import annotations

import contextlib
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
    """Pings actors, by name: each has a method `ping` that answers beside its work, with the
    seconds that it has been at its present piece of work, or None.

    No answer may take longer than `limit_s`, no piece of work longer than `progress_s`.
    """

    def __init__(self, actors: Mapping[str, ActorHandle], limit_s: float, progress_s: float = float("inf")) -> None:
        self._actors = dict(actors)
        self._limit_s = limit_s
        self._progress_s = progress_s
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
        answered for `limit_s`, or that has been at one piece of its work for `progress_s`; a death
        is left to the calls that it breaks."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PERIOD_S
        pending = {ref: name for name, (ref, _) in self._pending.items()}
        answered, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0.0) if pending else ([], [])
        for ref in answered:
            del self._pending[pending[ref]]
        self._check_progress({pending[ref]: ref for ref in answered})
        for name, actor in self._actors.items():
            if name not in self._pending:
                self._pending[name] = (actor.ping.remote(), now)
        late = [name for name, (_, sent_at) in self._pending.items() if now - sent_at > self._limit_s]
        if late:
            raise RoleError(
                f"{', '.join(late)} did not answer for {self._limit_s:.0f} s. Logs: {log_folder()}",
                kind=FaultKind.HUNG,
            )

    def _check_progress(self, answered: Mapping[str, ObjectRef]) -> None:
        stalled: dict[str, float] = {}
        for name, ref in answered.items():
            with contextlib.suppress(ray.exceptions.RayError):  # a death: the calls tell of it
                value = ray.get(ref, timeout=0.0)
                if isinstance(value, float) and value > self._progress_s:
                    stalled[name] = value
        if stalled:
            raise RoleError(
                f"{', '.join(stalled)} made no progress for {max(stalled.values()):.0f} s, probably in a call that waits for "
                f"another rank. Logs: {log_folder()}",
                kind=FaultKind.HUNG,
            )
