"""A word for a run that can't say any itself: its process was killed, or Ray ended it.

Ray ends a driver at once, without an exception, when the raylet beside it is gone, as it is when
the head node fails. So a small process looks on. When the pipe to the run closes and the run has
not said before that it ends, that process says so.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_LIMIT_S = 10.0
_ENDED = b"ended"
# Without site-packages, so that it costs a hundredth of a second and a few megabytes.
_LOOK_ON = f"""
import sys
if sys.stdin.buffer.read() != {_ENDED!r}:
    sys.stderr.write(sys.argv[1] + "\\n")
"""


@contextmanager
def last_word(words: str, err: TextIO) -> Iterator[None]:
    """Inside, `words` go to `err` if this process ends without leaving the block, whatever ends
    it."""
    looker = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LOOK_ON, words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=err.fileno(),
        start_new_session=True,  # what the terminal sends to the run's group, Ctrl-C say, is not for it
    )
    try:
        yield
    finally:
        try:
            looker.communicate(_ENDED, timeout=_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired):
            looker.kill()
            looker.wait(_LIMIT_S)
