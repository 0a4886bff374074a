"""Freed memory: keeps what a server has freed for its next message, and gives it back to the system
soon after.

- A message of megabytes is copied several times on its way through a process. By default glibc gets
  each of these blocks from the system and returns it at once. The page faults of that cost more CPU
  time than the copies.
- After messages of megabytes from many threads glibc keeps half a gigabyte, which no other process
  can have. A thread asks glibc to return what is free, which takes some tens of milliseconds:
  soon after the process has grown, and again for as long as that returns something. A process at
  rest is asked every few minutes.
- With another C library nothing happens.
"""

from __future__ import annotations

import ctypes
import resource
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

_PERIOD_S = 10.0
# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
# The most that it takes.
_KEPT_BLOCK = 32 * 2**20
# A thread's own arena has parts of this size. With so much to spare they stay when they are empty.
_ARENA_PART = 64 * 2**20
# Until the next look; messages of all callers together.
_KEPT = 512 * 2**20
#: A process that has grown by so much is due at once.
_GROWTH = 64 * 2**20
#: What is worth asking again soon.
_WORTH = 8 * 2**20
#: The most looks from one time to the next.
_MOST_LOOKS = 32


class FreedMemory:
    """Looks at this process and returns what it has freed. `trim` is glibc's `malloc_trim`."""

    def __init__(self, trim: Callable[[int], object]) -> None:
        self._trim = trim
        self._size = resident_bytes()
        self._looks = 0
        self._due = _MOST_LOOKS

    def look(self) -> bool:
        """Return what is free, if it is time to. Whether it was."""
        self._looks += 1
        size = resident_bytes()
        if size < self._size + _GROWTH and self._looks < self._due:
            return False
        self._trim(0)
        self._size = resident_bytes()
        self._looks = 0
        # Messages that are still under way will be free later, without any growth.
        self._due = 1 if size - self._size >= _WORTH else min(2 * self._due, _MOST_LOOKS)
        return True


def resident_bytes() -> int:
    """The memory that this process has at present."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


@cache
def return_freed_memory() -> None:
    """Have this process keep what it frees for its next message, and a thread return what is still
    free then, until the process ends. A second call does nothing.

    Threads that run already may stay with arenas of their own, which return less: call it early.
    """
    try:
        libc = ctypes.CDLL(None)
        trim, mallopt = libc.malloc_trim, libc.mallopt
    except (OSError, AttributeError):
        return
    for option, value in (
        (_MMAP_THRESHOLD, _KEPT_BLOCK),
        (_TRIM_THRESHOLD, _KEPT),
        (_TOP_PAD, _ARENA_PART),
        (_ARENA_MAX, 1),
    ):
        mallopt(option, value)
    freed = FreedMemory(trim)

    def watch() -> None:
        pause = threading.Event()
        while not pause.wait(_PERIOD_S):
            freed.look()

    threading.Thread(target=watch, name="freed-memory", daemon=True).start()
