"""RunMirror: keeps a run whose `--out` is a URL in object storage, and its files in a local folder
while it works.

- The local folder has what needs a file system: locks, renames, logs that grow. It may be lost at
  any time: the run continues from what was stored.
- A thread stores the folder's state every few seconds while it changes. The end of a stage waits
  until its files are stored.
- One run at a time works at an address. Its owner says so every few seconds; one that has been
  silent for `LEASE_S` is taken to be gone.
- A run whose address another run has taken over stores nothing more, and ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rapo.errors import RapoError, RunFolderError
from rapo.storage.snapshot import FolderSnapshot
from rapo.storage.store import Store
from rapo.storage.urls import whole_url
from rapo.util.private_folder import private_folder

LEASE_S = 60.0
_RENEW_S = 15.0
_POLL_S = 1.0
_FIRST_S = 20.0
_OWNER = ".rapo/owner.json"
#: What an unfinished stage makes anew, and what is of this machine.
_LOCAL = frozenset({".lock", "ray_train"})

#: What a run is for; the rest is for continuing it.
_RESULTS = ("report.html", "report.json", "config.toml", "evaluate", "export")

logger = logging.getLogger(__name__)


def scratch_folder(url: str | Path, scratch: Path | None) -> Path:
    """The local folder of the run at a URL, the same on every machine: a run folder holds absolute
    paths."""
    whole = whole_url(url)
    name = f"{whole.rpartition('/')[2]}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return (scratch.resolve() if scratch is not None else private_folder()) / "runs" / name


class RunMirror:
    """The run at `url`, with its files in `folder`; `every_s` is the time between two looks for
    what changed."""

    def __init__(self, url: str | Path, folder: Path, every_s: float, note: Callable[[str], None]) -> None:
        self._store = Store(url)
        self.url = self._store.url
        self._folder = folder
        self._every_s = every_s
        #: Takes what the user should read; may be exchanged.
        self.note = note
        self._id = secrets.token_hex(8)
        self._snapshot: FolderSnapshot | None = None
        self._storing = threading.Lock()
        self._stop = threading.Event()
        self._lost = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Take the address, and make the folder what is stored there; store it at the end.

        Raises `RunFolderError` where another run works there, `ResourceError` where the storage
        does not answer.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with self._folder.with_name(f".{self._folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(f"another run is working in {self.url}; give another --out.") from error
            yield from self._opened()

    def _opened(self) -> Iterator[None]:
        self._acquire()
        try:
            self._snapshot = FolderSnapshot(self._folder, self._store, lambda path: bool(_LOCAL & set(path.parts)))
            if self._snapshot.restore():
                self.note(f"restored from {self.url} into {self._folder}")
            thread = threading.Thread(target=self._work, name="rapo-mirror", daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join(_RENEW_S)
                self.flush()
        finally:
            if not self._lost:
                self._store.delete(_OWNER)

    def flush(self) -> None:
        """Store what changed; returns when it is stored.

        Raises `RunFolderError` where another run has taken over, `ResourceError` where the storage
        does not take it.
        """
        assert self._snapshot is not None, "not open"
        with self._storing:
            self._snapshot.store(self._check_owner)

    def publish_results(self) -> None:
        """Store what changed, and copy what others read to its own name below the address."""
        self.flush()
        assert self._snapshot is not None, "not open"
        with self._storing:
            for name in _RESULTS:
                self._snapshot.publish(name)

    def _work(self) -> None:
        told = False
        renewed = stored = time.monotonic()
        while not self._stop.wait(_POLL_S):
            try:
                if time.monotonic() - renewed > _RENEW_S:
                    self._check_owner()
                    self._write_owner()
                    renewed = time.monotonic()
                if time.monotonic() - stored > self._every_s:
                    self.flush()
                    stored, told = time.monotonic(), False
            except RunFolderError as error:
                self.note(str(error))
                return
            except RapoError as error:  # the end of the stage tries again, and is an error if that fails
                if not told:
                    self.note(f"nothing is stored at the moment: {error}")
                told, stored = True, time.monotonic()

    def _acquire(self) -> None:
        """Become the owner. One that does not stir for `LEASE_S`, or had this folder of this
        machine (whose lock this process holds), is gone."""
        # What is wrong with the address shows here, and soon.
        first, deadline = Store(self.url, _FIRST_S).read(_OWNER), time.monotonic() + LEASE_S
        if first is not None and _place_of(first) != self._place:
            self.note(f"another run worked at {self.url}; waiting {LEASE_S:.0f} s to see whether it is gone")
            while time.monotonic() < deadline:
                if self._store.read(_OWNER) != first:
                    raise RunFolderError(f"another run is working in {self.url}; wait for it or give another --out.")
                time.sleep(_POLL_S)
        self._write_owner()

    @property
    def _place(self) -> str:
        return f"{_host()}:{self._folder.resolve()}"

    def _write_owner(self) -> None:
        owner = {"id": self._id, "place": self._place, "pid": os.getpid(), "time": time.time()}
        self._store.write(_OWNER, json.dumps(owner).encode())

    def _check_owner(self) -> None:
        found = self._store.read(_OWNER)
        if self._lost or found is None or self._id.encode() not in found:
            self._lost = True
            raise RunFolderError(f"another run has taken over {self.url}; this one stores nothing more")


def _host() -> str:
    # In a container the name alone may be that of another.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


def _place_of(owner: bytes) -> str | None:
    try:
        found = json.loads(owner).get("place")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None
