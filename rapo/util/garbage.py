"""No search for garbage while a process starts.

The imports of torch, transformers and vLLM make a million objects that stay. Python's collector
goes through all of them again and again while they come, and vLLM has it done several times more
when an engine starts: a quarter of the CPU time of such a start.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Search for no garbage within the block, and never again among what is there at its end.

    Blocks may lie within each other, and beside each other in threads. The collector runs again
    after the outermost one.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
