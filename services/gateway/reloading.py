"""ReloadingFile: the content of files that may change while the service runs.

- A changed file is read again.
- A broken change is logged and counted, and the old content stays in force.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from rapo.errors import ConfigError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ReloadingFile(Generic[T]):
    """What `read` makes of some files. `read` raises `ConfigError` for content that it cannot use,
    and so does the constructor.

    Thread-safe. `refresh` may be called often: it reads only after a change.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._marks()
        self.value = read()
        #: Changes that could not be used.
        self.failures = 0

    def refresh(self) -> bool:
        """Read again if a file changed; whether there is a new value. A broken file is logged once
        per change."""
        with self._lock:
            marks = self._marks()
            if marks == self._seen:
                return False
            self._seen = marks
            try:
                self.value = self._read()
            except ConfigError as error:
                self.failures += 1
                logger.error("the old content stays in force: %s", error)
                return False
            logger.info("read again: %s", ", ".join(path.name for path in self._paths))
            return True

    def _marks(self) -> tuple[object, ...]:
        """A value that changes when a file is written, replaced or, behind a link, exchanged."""
        marks: list[object] = []
        for path in self._paths:
            try:
                found = path.stat()
                marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError as error:
                marks.append(error.errno)
        return tuple(marks)


def read_small(path: Path, what: str, limit: int = 2**20) -> bytes:
    """The bytes of a file. Raises `ConfigError` with `what` (the setting's name) if it cannot be
    read or is larger than `limit` bytes."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{what} = {path}: cannot be read ({error.strerror or error})") from error
    if len(data) > limit:
        raise ConfigError(f"{what} = {path}: more than {limit:,} bytes; this is another file")
    return data
