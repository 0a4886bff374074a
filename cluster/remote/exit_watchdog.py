"""Exit watchdog: a small process that reports the end of a run which cannot report it itself.

Ray ends a driver at once, without an exception, when the raylet beside it is gone, as it is when
the head node fails. A kill does the same. The watchdog holds a pipe to the run. When the pipe
closes and the run has not written that it ends, the watchdog prints a message for the user.
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
_WATCH = f"""
import sys
if sys.stdin.buffer.read() != {_ENDED!r}:
    sys.stderr.write(sys.argv[1] + "\\n")
"""


@contextmanager
def exit_watchdog(message: str, err: TextIO) -> Iterator[None]:
    """Inside, `message` is written to `err` if this process ends without leaving the block."""
    watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, message],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=err.fileno(),
        start_new_session=True,  # a Ctrl-C in the terminal goes to the run alone
    )
    try:
        yield
    finally:
        try:
            watchdog.communicate(_ENDED, timeout=_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired):
            watchdog.kill()
            watchdog.wait(_LIMIT_S)
