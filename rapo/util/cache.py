"""Byte-bounded caches: what a `cachetools` cache with `getsizeof` in bytes lacks.

- A value larger than the whole cache is used and not kept; cachetools raises ValueError for it.
- Neither function is thread-safe: a caller with several threads holds a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from cachetools import Cache

K = TypeVar("K")
V = TypeVar("V")


def keep(cache: Cache[K, V], key: K, value: V) -> None:
    """Keep `value`, in the place of another of this key if there is one."""
    with suppress(ValueError):
        cache[key] = value


def get_or_make(cache: Cache[K, V], key: K, make: Callable[[], V]) -> V:
    """The value of `key`, made now unless it is kept. An error of `make` passes through, and
    nothing is kept."""
    if key in cache:
        return cache[key]
    value = make()
    keep(cache, key, value)
    return value
