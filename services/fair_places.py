"""FairPlaces: a number of places that callers take in turn.

- Of the callers that wait, each gets a place before one gets its second.
- With `keep_one` the last free place is for a caller that holds none, so that a single caller
  cannot hold them all.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairPlaces:
    """`places` places; they belong to one event loop."""

    def __init__(self, places: int, *, keep_one: bool = False) -> None:
        self._free = places
        self._keep_one = keep_one and places > 1
        self._held: Counter[str] = Counter()
        # In the order in which callers are next.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """A place for as long as the block runs."""
        await self.take(caller)
        try:
            yield
        finally:
            self.give_back(caller)

    async def take(self, caller: str) -> None:
        """Wait for a place. `give_back` must follow."""
        if caller not in self._waiting and self._may(caller):
            self._grant(caller)
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._forget(caller, granted)
            else:  # the place came at the same moment
                self.give_back(caller)
            raise

    def give_back(self, caller: str) -> None:
        """Free a place that `take` gave."""
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        while (found := next(filter(self._may, self._waiting), None)) is not None:
            waiting = self._waiting.pop(found)
            granted = waiting.popleft()
            if waiting:
                self._waiting[found] = waiting  # behind the others
            if not granted.done():
                self._grant(found)
                granted.set_result(None)

    def _may(self, caller: str) -> bool:
        return self._free > (1 if self._keep_one and self._held[caller] else 0)

    def _grant(self, caller: str) -> None:
        self._free -= 1
        self._held[caller] += 1

    def _forget(self, caller: str, granted: asyncio.Future[None]) -> None:
        if (waiting := self._waiting.get(caller)) is not None and granted in waiting:
            waiting.remove(granted)
            if not waiting:
                del self._waiting[caller]
