"""StalenessWindow: admits tickets while the sampler is not too far ahead of the learner.

With N the groups of a step, tickets are admitted as long as

    used + ready + running <= (max_staleness + step + 1) N

where `step` counts finished optimiser steps. That bounds staleness at the source, as long as
workers load new weights promptly. Where they do not, a group whose oldest token is more than
`max_staleness` steps old when it would be used is dropped and sampled again. `max_staleness` 0 is
synchronous: the groups of a step are sampled from the weights that the step before made.

A group is known by its ticket: ticket t is place `t % N` of the t // N-th batch. No Ray is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapo.records import Group

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass(frozen=True, slots=True)
class ReadyGroup:
    """A sampled group: a ref to it, its oldest token's weight version, and its data set."""

    ticket: int
    group: ObjectRef[Group]
    version: int
    dataset: str


@dataclass(frozen=True, slots=True)
class WindowState:
    """What a checkpoint keeps of a window. `ready` has version and data set by ticket; the tickets
    of `again` are to be sampled, among them those that were running."""

    next: int
    again: list[int]
    ready: dict[str, tuple[int, str]]
    used: int
    dropped: int


class StalenessWindow:
    """Tickets go from `admit` over `put` to `take`, or back to `admit` where `drop_stale` drops
    them. There are `batch * steps` tickets in all."""

    def __init__(self, batch: int, max_staleness: int, steps: int) -> None:
        self.batch = batch
        self._max_staleness = max_staleness
        self._total = batch * steps
        self._next = 0
        self._again: list[int] = []
        self._running: set[int] = set()
        self._ready: dict[int, ReadyGroup] = {}
        # `drop_stale` and `take` run whenever a group comes, with thousands of them ready: neither
        # may look at all of them each time.
        self._counts: Counter[str] = Counter()
        self._checked_step: int | None = None
        self._unchecked: list[int] = []
        self._used = 0
        self.dropped = 0

    @property
    def running(self) -> int:
        """The number of tickets that are being sampled."""
        return len(self._running)

    @property
    def used(self) -> int:
        """The number of groups that steps have taken."""
        return self._used

    @property
    def ready(self) -> list[ReadyGroup]:
        """The groups that wait to be used, by ticket."""
        return [self._ready[ticket] for ticket in sorted(self._ready)]

    def admit(self, step: int) -> list[int]:
        """The tickets that may be sampled now; those that were dropped come first."""
        room = (self._max_staleness + step + 1) * self.batch - self._used - len(self._ready) - len(self._running)
        admitted: list[int] = []
        while len(admitted) < room and self._again:
            admitted.append(self._again.pop(0))
        while len(admitted) < room and self._next < self._total:
            admitted.append(self._next)
            self._next += 1
        self._running.update(admitted)
        return admitted

    def put(self, ready: ReadyGroup) -> None:
        """A group has been sampled. Raises `ValueError` for a ticket that is not running: a group
        is used at most once."""
        if ready.ticket not in self._running:
            raise ValueError(f"ticket {ready.ticket} is not running")
        self._running.remove(ready.ticket)
        self._add(ready)

    def requeue(self, ticket: int) -> None:
        """A group that was taken is lost: sample it again."""
        self._used -= 1
        self._again = sorted([*self._again, ticket])

    def give_back(self, ready: ReadyGroup) -> None:
        """A group that was taken was not used after all."""
        self._used -= 1
        self._add(ready)

    def drop_stale(self, step: int) -> list[int]:
        """Drop what is too old to be used at `step`; their tickets, which `admit` gives out
        again."""
        unchecked = self._ready if step != self._checked_step else [t for t in self._unchecked if t in self._ready]
        stale = sorted(ticket for ticket in unchecked if step - self._ready[ticket].version > self._max_staleness)
        self._checked_step, self._unchecked = step, []
        if stale:
            for ticket in stale:
                self._remove(ticket)
            self._again = sorted(self._again + stale)
            self.dropped += len(stale)
        return stale

    def take(self, step: int) -> list[ReadyGroup] | None:
        """One step's groups by ticket, all of one data set, or None where too few are ready. Call
        `drop_stale` before.

        What was admitted first is taken first, but a group that is still being sampled holds up no
        other, unless `max_staleness` is 0: then a step has its own groups only.
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

    def state(self) -> WindowState:
        return WindowState(
            next=self._next,
            again=sorted({*self._again, *self._running}),
            ready={str(ticket): (ready.version, ready.dataset) for ticket, ready in self._ready.items()},
            used=self._used,
            dropped=self.dropped,
        )

    def restore(self, state: WindowState, groups: Mapping[int, ObjectRef[Group]]) -> None:
        """Go on from `state`, with a ref to each ready group by ticket."""
        self._next, self._used, self.dropped = state.next, state.used, state.dropped
        self._again = sorted(state.again)
        for ticket, (version, dataset) in state.ready.items():
            self._add(ReadyGroup(int(ticket), groups[int(ticket)], version, dataset))

    def _add(self, ready: ReadyGroup) -> None:
        self._ready[ready.ticket] = ready
        self._counts[ready.dataset] += 1
        self._unchecked.append(ready.ticket)

    def _remove(self, ticket: int) -> None:
        self._counts[self._ready.pop(ticket).dataset] -= 1
