"""Freed memory: what threads have freed stays for the next message, then goes back to the system; a
process is asked when it is time to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rapo.util import freed_memory
from rapo.util.freed_memory import FreedMemory

MIB = 2**20

#: Frees 256 MiB that lie between small blocks which stay, and says how much of it the process has
#: kept before and after a look.
FREES = """
import ctypes, sys
from rapo.util.freed_memory import FreedMemory, resident_bytes
freed = FreedMemory(ctypes.CDLL(None).malloc_trim)
before = resident_bytes()
blocks = [b"x" * (2**16 + i) for i in range(4096)]
kept = blocks[::64]
del blocks
held = resident_bytes() - before
assert freed.look()
print(held // 2**20, (resident_bytes() - before) // 2**20)
"""

#: A thread takes and frees 72 MiB twenty times over, as the copies of a message, while others run
#: that began before. Says how many MiB the system had to give, and how many are left after a look.
KEEPS = """
import ctypes, resource, sys, threading
from rapo.util.freed_memory import FreedMemory, resident_bytes, return_freed_memory
begun = threading.Barrier(int(sys.argv[1]) + 1)
def others():
    bytes(5000)
    begun.wait(60)
    threading.Event().wait(60)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=others, daemon=True).start()
begun.wait(60)
return_freed_memory()
freed = FreedMemory(ctypes.CDLL(None).malloc_trim)
before, faults = resident_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        [b"x" * (12 * 2**20 + i) for i in range(6)]
thread = threading.Thread(target=work)
thread.start()
thread.join(60)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
freed._due = 1
assert freed.look()
print(faults * resource.getpagesize() // 2**20, (resident_bytes() - before) // 2**20)
"""


@pytest.mark.parametrize(("threads", "most_left"), [(0, 6), (12, 24)])
def test_what_a_message_took_serves_the_next_and_is_returned_then(threads: int, most_left: int) -> None:
    command = [sys.executable, "-c", KEEPS, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    taken, left = map(int, done.stdout.split())
    assert taken < 20 * 72 / 6
    assert left < most_left


def test_what_is_freed_between_blocks_that_stay_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", FREES], capture_output=True, text=True, timeout=60, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 150, "without a look the process keeps it"
    assert left < 64


def test_a_process_is_asked_when_it_has_grown_and_for_as_long_as_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 100 * MIB
    in_use = 100 * MIB

    def trim(pad: int) -> None:
        nonlocal size
        size = in_use

    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: size)
    freed = FreedMemory(trim)
    assert not freed.look(), "nothing has grown"
    size, in_use = 700 * MIB, 600 * MIB
    assert freed.look()
    in_use = 110 * MIB  # the last messages end, and the process does not grow
    assert freed.look()
    assert size == 110 * MIB
    looks = [freed.look() for _ in range(100)]
    assert looks[0], "it gave much the last time"
    assert [number for number, asked in enumerate(looks) if asked] == [0, 2, 6, 14, 30, 62, 94]
