"""RunMirror: keeps a run whose `--out` is a URL in object storage, and its files in a local folder
while it works.

- The local folder has what needs a file system: locks, renames, logs that grow. It may be lost at
  any time: the run continues from what was stored.
- A thread stores the folder's state every few seconds while it changes. The end of a stage waits
  until its files are stored.
- One run at a time works at an address. Its owner says so every few seconds, in another thread; one
  that has been silent for `LEASE_S` is taken to be gone.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rapo.errors import RapoError, ResourceError, RunFolderError
from rapo.storage.snapshot import FolderSnapshot
from rapo.storage.store import PATIENCE_S, Store
from rapo.storage.urls import whole_url
from rapo.util.daemon_threads import PREFIX, run_aside
from rapo.util.private_folder import private_folder

LEASE_S = 60.0
_RENEW_S = 15.0
_POLL_S = 1.0
_FIRST_S = 20.0
_JOIN_S = 15.0
#: How long the storage may take for the last state after Ctrl-C.
_LAST_S = 10.0
_OWNER = ".rapo/owner.json"
#: What an unfinished stage makes anew, and what is of this machine.
_LOCAL = frozenset({".lock", "journal", "ray_train"})

#: Where a resumed run puts the states that its ranks fetch.
_STATES = "rapo/state"
#: What a run is for; the rest is for continuing it.
_RESULTS = ("report.html", "report.json", "config.toml", "evaluate", "export")

logger = logging.getLogger(__name__)


def scratch_folder(url: str | Path, scratch: Path | None) -> Path:
    """The local folder of the run at a URL, the same on every machine: a run folder holds absolute
    paths."""
    whole = whole_url(url)
    name = f"{whole.rpartition('/')[2]}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return (scratch.resolve() if scratch is not None else private_folder()) / "runs" / name


@dataclass(frozen=True, slots=True)
class Owner:
    """The run that works at an address: its process, its machine and folder, and when it last said
    so, by its own clock."""

    id: str
    place: str
    pid: int
    time: float


def read_owner(store: Store) -> Owner | None:
    """The owner of an address; None where there is none, or what is there cannot be read."""
    content = store.read(_OWNER)
    try:
        return None if content is None else Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


class RunMirror:
    """The run at `url`, with its files in `folder`; `every_s` is the time between two looks for
    what changed."""

    def __init__(self, url: str | Path, folder: Path, every_s: float, note: Callable[[str], None]) -> None:
        self._store = Store(url)
        self.url = self._store.url
        self._folder = folder
        self._every_s = every_s
        self._note = note
        self._store.on_wait = lambda text: self._note(text)
        self._id = secrets.token_hex(8)
        self._snapshot: FolderSnapshot | None = None
        self._storing = threading.Lock()
        self._lost = False
        #: Whether the end of a stage has failed because of the storage, and the user knows.
        self._told = False

    @contextmanager
    def noting(self, note: Callable[[str], None]) -> Iterator[None]:
        """Give `note` what the user should read, for the length of the block."""
        before, self._note = self._note, note
        try:
            yield
        finally:
            self._note = before

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
            run_aside(self._acquire)
            try:
                with _beside(self._keep_address):
                    run_aside(self._restore)
                    yield from self._mirrored()
            except KeyboardInterrupt:
                self._end_at_once()
                raise
            except BaseException:
                run_aside(self._release)
                raise
            run_aside(self._release)

    def _restore(self) -> None:
        snapshot = FolderSnapshot(self._folder, self._store, lambda path: bool(_LOCAL & set(path.parts)))
        if snapshot.restore(self._note):
            self._note(f"restored from {self.url} into {self._folder}")
        self._snapshot = snapshot  # a folder that is half restored must not be stored

    def _mirrored(self) -> Iterator[None]:
        try:
            with _beside(self._keep_stored):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            try:
                run_aside(self._flush)
            except RapoError as error:
                if not self._told:
                    self._note(str(error))  # the error of the command is what ended it
            raise
        self.flush()

    def flush(self) -> None:
        """Store what changed; returns when it is stored.

        Raises `RunFolderError` where another run has taken over, `ResourceError` where the storage
        does not take it.
        """
        try:
            run_aside(self._flush)
        except RapoError:
            self._told = True
            raise

    def at_url(self, folder: Path) -> Path:
        """Where other machines find a folder of the run: its own name below the address, under
        which it is stored when this returns. A folder elsewhere is where it is.

        Raises as `flush`.
        """
        if not folder.is_relative_to(self._folder):
            return folder
        self.flush()
        name = folder.relative_to(self._folder).as_posix()
        run_aside(lambda: self._publish((name,)))
        return Path(f"{self.url}/{name}")

    def publish_results(self) -> None:
        """Store what changed, and copy what others read to its own name below the address. States
        that ranks went on from are removed there."""
        self.flush()
        run_aside(lambda: self._publish(_RESULTS))
        run_aside(lambda: self._store.each(self._store.delete, [one.name for one in self._store.files(_STATES)]))

    def _publish(self, names: Iterable[str]) -> None:
        assert self._snapshot is not None, "not open"
        with self._storing:
            for name in names:
                self._snapshot.publish(name)

    def _flush(self) -> None:
        assert self._snapshot is not None, "not open"
        try:
            with self._storing:
                self._snapshot.store(self._check_owner)
        except ResourceError as error:
            raise ResourceError(f"{error}; {self._kept()}") from error

    def _kept(self) -> str:
        return f"what is not stored is in {self._folder}, where the same command on this machine goes on"

    def _end_at_once(self) -> None:
        """After Ctrl-C: store what the storage takes at once, and leave the address."""
        self._store.give_up()
        ended = threading.Event()

        def end() -> None:
            with suppress(RapoError):
                if self._snapshot is not None:
                    self._flush()
                self._release()
                ended.set()

        thread = threading.Thread(target=end, name=f"{PREFIX}mirror-end", daemon=True)
        thread.start()
        try:
            thread.join(_LAST_S)
        finally:
            if not ended.is_set():
                self._note(f"{self.url}: {self._kept()}")

    def _keep_stored(self, ended: threading.Event) -> None:
        told = False
        while not ended.wait(self._every_s):
            try:
                self._flush()
                told = False
            except RunFolderError:
                return  # the other thread says it
            except (RapoError, OSError) as error:  # the end of the stage tries again, and is an error if that fails
                if not told and not ended.is_set():
                    self._note(f"nothing is stored at the moment: {error}")
                told = True

    def _keep_address(self, ended: threading.Event) -> None:
        """In a thread of its own, because to fetch or to store a checkpoint takes long."""
        while not ended.wait(_RENEW_S):
            try:
                self._check_owner()
                self._write_owner()
            except RunFolderError as error:
                self._note(str(error))
                return
            except ResourceError:
                continue  # a storage that is away keeps other runs out, too

    def _acquire(self) -> None:
        """Become the owner. One that does not stir for `LEASE_S`, or had this folder of this
        machine (whose lock this process holds), is gone."""
        # What is wrong with the address shows here, and soon.
        first, deadline = Store(self.url, min(_FIRST_S, PATIENCE_S)).read(_OWNER), time.monotonic() + LEASE_S
        if first is not None and _place_of(first) != self._place:
            self._note(f"another run worked at {self.url}; waiting {LEASE_S:.0f} s to see whether it is gone")
            while time.monotonic() < deadline:
                now = self._store.read(_OWNER)
                if now is None:
                    break  # it has ended
                if now != first:
                    raise RunFolderError(f"another run is working in {self.url}; wait for it or give another --out.")
                time.sleep(_POLL_S)
        self._write_owner()

    def _release(self) -> None:
        if self._lost:
            return
        try:
            self._store.delete(_OWNER)
        except ResourceError as error:  # then the next run waits until this one counts as gone
            logger.warning("%s", error)

    @property
    def _place(self) -> str:
        return f"{_host()}:{self._folder.resolve()}"

    def _write_owner(self) -> None:
        owner = Owner(self._id, self._place, os.getpid(), time.time())
        self._store.write(_OWNER, json.dumps(asdict(owner)).encode())

    def _check_owner(self) -> None:
        found = self._store.read(_OWNER)
        if self._lost or found is None or self._id.encode() not in found:
            self._lost = True
            raise RunFolderError(f"another run has taken over {self.url}; this one stores nothing more")


@contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread beside the block. Its event tells it that the block has ended. Ctrl-C
    does not wait for it."""
    ended, limit_s = threading.Event(), _JOIN_S
    thread = threading.Thread(target=work, args=(ended,), name=f"{PREFIX}mirror-{work.__name__}", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        limit_s = 0.0
        raise
    finally:
        ended.set()
        thread.join(limit_s)


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
