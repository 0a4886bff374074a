"""ReloadingFile: the content of files that may change while the service runs.

- A changed file is read again, in a thread of its own (`FileFollower`): a file system that does not
  answer holds nothing else.
- Only regular files are read, and at most a megabyte of them.
- A change that cannot be used, for whatever reason, is logged and counted, and the old content
  stays in force.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Generic, Protocol, TypeVar

from rapo.errors import ConfigError

T = TypeVar("T")

# How often files are looked at, and after which time without an answer that is an error.
_PERIOD_S, _LIMIT_S = 1.0, 10.0

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
            except Exception:
                self.failures += 1
                logger.exception("the old content of %s stays in force", self.name)
                return False
            logger.info("read again: %s", self.name)
            return True

    @property
    def name(self) -> str:
        """The files' names."""
        return ", ".join(path.name for path in self._paths)

    def _marks(self) -> tuple[object, ...]:
        """A value that changes when a file is written, replaced or, behind a link, exchanged.

        The time of the last change tells a file that was written in place and dated back.
        """
        marks: list[object] = []
        for path in self._paths:
            try:
                found = path.stat()
                marks.append((found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino))
            except (OSError, ValueError) as error:
                marks.append(str(error))
        return tuple(marks)


class Refreshable(Protocol):
    """The part of `ReloadingFile` that a follower uses."""

    @property
    def name(self) -> str: ...
    def refresh(self) -> bool: ...


class FileFollower:
    """Keeps files fresh until it is closed, each in a thread of its own."""

    def __init__(
        self, files: Mapping[str, Refreshable], period_s: float = _PERIOD_S, limit_s: float = _LIMIT_S
    ) -> None:
        self._files = files
        self._period_s = period_s
        self._limit_s = limit_s
        self._stop = threading.Event()
        self._looked_at = dict.fromkeys(files, monotonic())
        self._told: set[str] = set()
        for key, file in files.items():
            # A daemon, because nothing can wake a thread that waits for a file system.
            threading.Thread(target=self._follow, args=(key, file), name=f"follow-{key}", daemon=True).start()

    def _follow(self, key: str, file: Refreshable) -> None:
        while not self._stop.wait(self._period_s):
            file.refresh()
            self._looked_at[key] = monotonic()

    def stuck(self) -> list[str]:
        """The files that newly do not answer, by their keys. Each is logged."""
        found = []
        for key, file in self._files.items():
            if monotonic() - self._looked_at[key] < self._limit_s + self._period_s:
                self._told.discard(key)
            elif key not in self._told:
                self._told.add(key)
                found.append(key)
                logger.error("the old content stays in force: %s cannot be read in %g s", file.name, self._limit_s)
        return found

    def close(self) -> None:
        """Follow no more. Threads that wait for a file system are left behind."""
        self._stop.set()


def read_small(path: Path, what: str, limit: int = 2**20) -> bytes:
    """The bytes of a regular file. Raises `ConfigError` with `what` (the setting's name) if it
    cannot be read, is another kind of file, or is larger than `limit` bytes."""
    try:
        # Opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{what} = {path}: not a regular file")
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ConfigError(f"{what} = {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > limit:
        raise ConfigError(f"{what} = {path}: more than {limit:,} bytes; this is another file")
    return data


def read_toml(path: Path, what: str) -> dict[str, object]:
    """The content of a TOML file. Raises `ConfigError` as `read_small` does, and for another
    form."""
    try:
        return tomllib.loads(read_small(path, what).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} = {path}: not valid TOML: {error}") from error
