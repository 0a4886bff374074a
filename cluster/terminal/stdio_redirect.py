"""OutputRedirect: sends what libraries print to a file and keeps the terminal for rapo's lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def redirect_output(path: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Point the process's stdout and stderr at `path` and yield the real ones `(out, err)`.

    The file descriptors are redirected, not only `sys.stdout`: Ray, gloo and oneDNN write from C++.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with os.fdopen(os.dup(1), "w", buffering=1) as out, os.fdopen(os.dup(2), "w", buffering=1) as err:
        try:
            os.dup2(log, 1)
            os.dup2(log, 2)
            yield out, err
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, target in zip(saved, (1, 2), strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
            os.close(log)
