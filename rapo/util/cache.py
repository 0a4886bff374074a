"""A least-recently-used cache that is bounded by bytes, for images that are needed again and
again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BytesLRU(Generic[T]):
    """Keeps values up to `limit` bytes together, `size_of` telling each one's; a value over the
    limit is never kept.

    Not thread-safe: one caller at a time.
    """

    def __init__(self, limit: int, size_of: Callable[[T], int]) -> None:
        self._limit = limit
        self._size_of = size_of
        self._items: OrderedDict[Hashable, T] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, made now unless it is still here. An error of `make` passes through
        and nothing is kept."""
        if (kept := self.find(key)) is not None:
            return kept
        value = make()
        self.put(key, value)
        return value

    def find(self, key: Hashable) -> T | None:
        """The value of `key` if it is still here."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    def put(self, key: Hashable, value: T) -> None:
        """Keep `value`, in the place of another of this key if there is one."""
        size = self._size_of(value)
        if size > self._limit:
            return
        if key in self._items:
            self.nbytes -= self._size_of(self._items.pop(key))
        self._items[key] = value
        self.nbytes += size
        while self.nbytes > self._limit:
            _, dropped = self._items.popitem(last=False)
            self.nbytes -= self._size_of(dropped)
