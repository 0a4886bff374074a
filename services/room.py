"""Room: a limit on the images that all callers have waiting and in work together.

- An eighth of it, rounded down, is not for the caller that has the rest, so that a single caller
  does not shut the others out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Room for `size` images."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._for_one = size - size // 8
        #: Images in it, of all callers.
        self.total = 0
        self._held: Counter[str] = Counter()

    def has(self, caller: str) -> bool:
        """Whether one more image of the caller finds room."""
        return self.total < self._size and self._held[caller] < self._for_one

    @contextmanager
    def taken(self, caller: str) -> Iterator[None]:
        """Count one image of the caller for as long as the block runs, room or not."""
        self.total += 1
        self._held[caller] += 1
        try:
            yield
        finally:
            self.total -= 1
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]
