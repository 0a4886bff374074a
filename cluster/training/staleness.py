"""Bounded staleness: how many groups may be under way, which are ready, and which have become too
old.

With eta the bound and N the groups of a step, groups are admitted as long as

    used + ready + running <= (eta + step + 1) N

where `step` counts finished optimiser steps. That bounds staleness at the source, as long as
workers take over new weights promptly. Where they don't, a group whose oldest token is more than
eta steps behind when it would be used is dropped and drawn again. eta 0 is synchronous: the groups
of a step are drawn from the weights that the step before made.

A group is known by its ticket: ticket t is place `t % N` of the t // N-th batch. No Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ready:
    """A drawn group: a handle on it, its oldest token's weight version, and its data set."""

    ticket: int
    group: Any
    version: int
    dataset: str


class StalenessWindow:
    """Tickets go from `admit` over `put` to `take`, or back to `admit` where `drop_stale` drops
    them. `total` tickets in all."""

    def __init__(self, batch: int, eta: int, steps: int) -> None:
        self.batch = batch
        self._max_staleness = eta
        self._total = batch * steps
        self._next = 0
        self._again: list[int] = []
        self._running: set[int] = set()
        self._ready: dict[int, Ready] = {}
        # `drop_stale` and `take` are called whenever a group comes, with thousands of them ready:
        # neither may look at all each time.
        self._counts: Counter[str] = Counter()
        self._swept: int | None = None
        self._unswept: list[int] = []
        self._used = 0
        self.dropped = 0

    @property
    def running(self) -> int:
        return len(self._running)

    def admit(self, step: int) -> list[int]:
        """The tickets that may be drawn now; those that were dropped come first."""
        room = (self._max_staleness + step + 1) * self.batch - self._used - len(self._ready) - len(self._running)
        admitted: list[int] = []
        while len(admitted) < room and self._again:
            admitted.append(self._again.pop(0))
        while len(admitted) < room and self._next < self._total:
            admitted.append(self._next)
            self._next += 1
        self._running.update(admitted)
        return admitted

    def put(self, ready: Ready) -> None:
        """A group has been drawn. Raises `ValueError` for a ticket that is not under way: a group
        is used at most once."""
        if ready.ticket not in self._running:
            raise ValueError(f"ticket {ready.ticket} is not under way")
        self._running.remove(ready.ticket)
        self._add(ready)

    def requeue(self, ticket: int) -> None:
        """A group that was taken can't be had any more: draw it again."""
        self._used -= 1
        self._again = sorted([*self._again, ticket])

    def give_back(self, ready: Ready) -> None:
        """A group that was taken was not used after all."""
        self._used -= 1
        self._add(ready)

    def _add(self, ready: Ready) -> None:
        self._ready[ready.ticket] = ready
        self._counts[ready.dataset] += 1
        self._unswept.append(ready.ticket)

    def _remove(self, ticket: int) -> None:
        self._counts[self._ready.pop(ticket).dataset] -= 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: counts and tickets. Groups under way are to be drawn again."""
        return {
            "next": self._next,
            "again": sorted({*self._again, *self._running}),
            "ready": {ticket: (ready.version, ready.dataset) for ticket, ready in self._ready.items()},
            "used": self._used,
            "dropped": self.dropped,
        }

    def restore(self, state: dict[str, Any], groups: Mapping[int, Any]) -> None:
        """Go on from `state`, with a handle on each ready group."""
        self._next, self._used, self.dropped = state["next"], state["used"], state["dropped"]
        self._again = sorted(state["again"])
        for key, (version, dataset) in state["ready"].items():
            self._add(Ready(int(key), groups[int(key)], version, dataset))

    @property
    def ready(self) -> list[Ready]:
        return [self._ready[ticket] for ticket in sorted(self._ready)]

    @property
    def used(self) -> int:
        return self._used

    def drop_stale(self, step: int) -> list[int]:
        """Drop what is too old to be used at `step`; their tickets, which `admit` gives out
        again."""
        looked_at = self._ready if step != self._swept else [t for t in self._unswept if t in self._ready]
        old = sorted(ticket for ticket in looked_at if step - self._ready[ticket].version > self._max_staleness)
        self._swept, self._unswept = step, []
        if old:
            for ticket in old:
                self._remove(ticket)
            self._again = sorted(self._again + old)
            self.dropped += len(old)
        return old

    def take(self, step: int) -> list[Ready] | None:
        """One step's groups by ticket, all of one data set, or None where too few are ready.

        What was admitted first is taken first, but a group that is still being drawn holds nobody
        up (unless eta is 0, where a step has its own groups only). Call `drop_stale` before.
        """
        if max(self._counts.values(), default=0) < self.batch:
            return None
        ready = self.ready
        if self._max_staleness == 0:
            ready = [r for r in ready if r.ticket // self.batch == step]
        for dataset in dict.fromkeys(r.dataset for r in ready):
            picked = [r for r in ready if r.dataset == dataset][: self.batch]
            if len(picked) == self.batch:
                for r in picked:
                    self._remove(r.ticket)
                self._used += len(picked)
                return picked
        return None
