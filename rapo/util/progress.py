"""Progress: how long a process has been at one piece of its work, for those that watch it.

- A thread that waits in a collective call answers pings and makes no progress. So a heartbeat asks
  for both.
- A process without work is not late, however long it waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """One thread works, any other may ask."""

    def __init__(self) -> None:
        self._began: float | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """In this context there is work; the first piece begins now."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def advance(self) -> None:
        """The next piece begins. Without work nothing happens."""
        if self._began is not None:
            self._began = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """The age in seconds of the piece at hand; 0 without work."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began
