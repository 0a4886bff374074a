"""Store: files below one address of object storage, through pyarrow's file systems.

- A file is visible whole or not at all: it gets its name when its last byte has come.
- What may pass (503, a broken or silent connection) is tried again with growing pauses, until the
  storage has answered nothing for `PATIENCE_S`. After that each action is tried once. What will not
  pass (no such bucket, no access) is an error at once.
- A wait of more than a few seconds is said (`Store.on_wait`). Ctrl-C ends it where the caller is a
  `rapo.util.daemon_threads.run_aside`.
- Credentials and endpoint come from the environment, never from the address.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import xxhash

from rapo.errors import ConfigError, ResourceError
from rapo.storage.urls import not_stored, whole_url
from rapo.util.daemon_threads import run_each

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileSystem

#: How long a storage that does not answer is waited for, in seconds.
PATIENCE_S = float(os.environ.get("RAPO_STORAGE_PATIENCE_S", "300"))

_PIECE = 8 * 2**20
_REQUEST_S, _CONNECT_S = 60.0, 10.0
# It may be the way rather than what is stored.
_DAMAGED_TRIES = 3
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.2, 10.0
_SAID_AFTER_S = 5.0
_THREADS = 8
#: S3 copies larger files in parts only, which pyarrow does not do.
_COPY_LIMIT = 5 * 2**30
#: What another try does not change, in the words of the services.
_FINAL = re.compile(
    r"ACCESS_DENIED|Access ?Denied|NO_SUCH_BUCKET|NoSuchBucket|INVALID_ACCESS_KEY|InvalidAccessKey|SIGNATURE|Forbidden"
    r"|Permission denied|No space left|CredentialsNotFound|Unauthorized|NOT_FOUND|Not a regular file|Is a directory"
)

A = TypeVar("A")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class DamagedError(ResourceError):
    """What came is not what was stored."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of a store: its name relative to the store, its bytes, and the time of its last change
    (0: unknown)."""

    name: str
    size: int
    changed_ns: int


class Store:
    """The files below `url`. Raises `ConfigError` for an address that cannot be opened."""

    def __init__(self, url: str | Path, patience_s: float | None = None) -> None:
        problem = not_stored(url)
        if problem is not None:
            raise ConfigError(problem)
        self.url = whole_url(url)
        self._local = self.url.startswith("file:")
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._files, self._root = _open(self.url)
        #: Told once when the storage has been away for some seconds.
        self.on_wait: Callable[[str], None] = lambda text: None
        #: Since when no action has succeeded; None where the last one did.
        self._away_since: float | None = None
        self._said = False
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Try nothing again from now on: what fails is an error at once."""
        self._given_up.set()

    def each(self, action: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """The results of an action for each item, several at a time. After an error no other action
        begins."""
        return run_each(action, items, _THREADS)

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none."""

        def attempt() -> bytes | None:
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._patiently(attempt, f"read {name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, which replaces the one before at once."""

        def attempt() -> None:
            with self._writing(name) as stream:
                stream.write(content)

        self._patiently(attempt, f"write {name}")

    def upload(self, path: Path, name: str, size: int) -> str:
        """Store the first `size` bytes of a file; their xxh3-128.

        Raises `OSError` where the local file is gone or shorter.
        """

        def attempt() -> str | OSError:
            digest, left = xxhash.xxh3_128(), size
            try:
                file = path.open("rb")
            except OSError as error:
                return error  # of this machine: no reason to try again
            with file, self._writing(name) as stream:
                while left and (piece := file.read(min(left, _PIECE))):
                    digest.update(piece)
                    stream.write(piece)
                    left -= len(piece)
            if left:
                return OSError(f"{path} became shorter while it was read")
            if (stored := self.size(name)) != size:
                raise OSError(f"{stored} of {size} bytes are stored")
            return digest.hexdigest()

        done = self._patiently(attempt, f"upload {name}")
        if isinstance(done, OSError):
            raise done
        return done

    def download(self, name: str, path: Path, checksum: str | None = None) -> None:
        """Fetch a file; it appears at `path` whole.

        Raises `DamagedError` where it is not what `checksum` (xxh3-128) tells, `ResourceError`
        where it is gone.
        """
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)

        def attempt() -> str | None:
            digest = xxhash.xxh3_128()
            try:
                with self._files.open_input_stream(self._path(name)) as stream, aside.open("wb") as file:
                    while piece := stream.read(_PIECE):
                        digest.update(piece)
                        file.write(piece)
            except FileNotFoundError:
                return None
            return digest.hexdigest()

        try:
            for _ in range(_DAMAGED_TRIES):
                found = self._patiently(attempt, f"download {name}")
                if found is None:
                    raise ResourceError(f"{self.url}/{name} is gone")
                if checksum in (None, found):
                    aside.replace(path)
                    return
            raise DamagedError(f"{self.url}/{name} is damaged: its checksum is {found}, not {checksum}")
        finally:
            aside.unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where there is none."""
        from pyarrow.fs import FileType

        info = self._patiently(lambda: self._files.get_file_info(self._path(name)), f"look at {name}")
        return int(info.size) if info.type == FileType.File else None

    def files(self, folder: str = "") -> Iterator[Stored]:
        """Every file below a folder of the store, or below all of it; none where it is not
        there."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        for info in self._patiently(lambda: self._files.get_file_info(selector), f"list {folder}"):
            if info.type == FileType.File:
                name = info.path.removeprefix(self._root).lstrip("/")
                yield Stored(name, int(info.size), int(info.mtime_ns or 0))

    def copy(self, name: str, to: str) -> None:
        """Copy a file inside the store. The service does it itself, but for a file beyond its
        limit."""
        size = self.size(name)

        def attempt() -> None:
            if size is None or size <= _COPY_LIMIT:
                self._parent(to)
                self._files.copy_file(self._path(name), self._path(to))
                return
            with self._files.open_input_stream(self._path(name)) as source, self._writing(to) as stream:
                while piece := source.read(_PIECE):
                    stream.write(piece)
            if (stored := self.size(to)) != size:
                raise OSError(f"{stored} of {size} bytes are stored")

        self._patiently(attempt, f"copy {name}")

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens where there is none."""

        def attempt() -> None:
            try:
                self._files.delete_file(self._path(name))
            except FileNotFoundError:
                return

        self._patiently(attempt, f"delete {name}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _parent(self, name: str) -> None:
        if self._local:  # object storage knows no folders
            self._files.create_dir(self._path(name).rpartition("/")[0], recursive=True)

    @contextmanager
    def _writing(self, name: str) -> Iterator[NativeFile]:
        """A stream whose file has its name when the block has ended."""
        path = self._path(name)
        if not self._local:
            with self._files.open_output_stream(path) as stream:
                yield stream
            return
        self._parent(name)
        aside = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
        try:
            with self._files.open_output_stream(aside) as stream:
                yield stream
            self._files.move(aside, path)
        except BaseException:
            with suppress(OSError):
                self._files.delete_file(aside)
            raise

    def _patiently(self, action: Callable[[], T], what: str) -> T:
        pause, deadline = _FIRST_PAUSE_S, (self._away_since or time.monotonic()) + self._patience_s
        while True:
            try:
                result = action()
            except OSError as error:
                now = time.monotonic()
                self._away_since = since = self._away_since or now
                if _FINAL.search(str(error)) or self._given_up.is_set() or now + pause > deadline:
                    raise ResourceError(f"{self.url}: cannot {what}: {_short(error)}") from error
                # A warning would be on the terminal where there is no log; `on_wait` says it once.
                logger.info("%s: %s: %s; trying again in %.1f s", self.url, what, _short(error), pause)
                if not self._said and now - since > _SAID_AFTER_S:
                    self._said = True
                    self.on_wait(f"{self.url} does not answer; waiting for it, {deadline - now:.0f} s more at most")
            else:
                self._away_since, self._said = None, False
                return result
            self._given_up.wait(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LAST_PAUSE_S)


def place_of(name: str, folder: Path) -> Path:
    """Where a stored file goes below a folder. Raises `DamagedError` for a name that leads out of
    it: names come from what is stored, which others may write."""
    if name.startswith("/") or ".." in name.split("/"):
        raise DamagedError(f"{name!r} is no name of a file below a folder; nothing is fetched")
    return folder / name


def _short(error: OSError) -> str:
    return str(error).partition("(Request ID")[0][:300].strip()


def _open(url: str) -> tuple[FileSystem, str]:
    from pyarrow import fs

    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem(), rest
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_REQUEST_S)), rest
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, object] = {}
    if endpoint is not None:
        protocol, _, host = endpoint.rstrip("/").rpartition("://")
        options = {"endpoint_override": host, "scheme": protocol or "https"}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    files = fs.S3FileSystem(
        connect_timeout=_CONNECT_S,
        request_timeout=float(os.environ.get("RAPO_STORAGE_REQUEST_S", _REQUEST_S)),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        **options,
    )
    return files, rest
