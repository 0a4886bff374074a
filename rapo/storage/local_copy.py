"""Local copies: files and folders of object storage, fetched once to each machine.

- Several processes of a machine that want the same one wait for the first of them.
- A copy is there whole or not at all. It is fetched anew when what is stored has changed.
- Where the storage has a list of the files with checksums (`rapo.storage.snapshot.LIST`), as what
  a run leaves has, each file is verified. Elsewhere sizes are.
- Copies stay, but for training states, which are large and needed once: of those a machine keeps
  the last one that was fetched, and those that a process reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rapo.errors import ResourceError
from rapo.storage.snapshot import LIST
from rapo.storage.store import DamagedError, Store, Stored, place_of
from rapo.storage.urls import is_url, whole_url
from rapo.util.brief import brief_error
from rapo.util.daemon_threads import run_aside
from rapo.util.private_folder import private_folder

_LIMIT_S, _POLL_S = 4 * 3600.0, 0.5
#: In the folder of a copy that is whole: what was stored when it was fetched.
_MARK = "state"


def local_copy(path: str | Path, scratch: Path | None = None) -> Path:
    """The path itself, or for a URL a copy of its file or folder below `scratch` (default: in the
    system's temporary folder).

    Raises `ResourceError` where nothing is stored there, it cannot be fetched, or it is damaged.
    """
    here = _without_copy(path)
    return here or run_aside(lambda: _copy_of(whole_url(path), scratch))


@contextmanager
def state_copy(path: str | Path, scratch: Path | None = None) -> Iterator[Path]:
    """Like `local_copy`, for a training state: the copy stays for the length of the block. Copies
    of other states, which no process of this machine has such a block for, are removed."""
    here = _without_copy(path)
    if here is not None:
        yield here
        return
    with ExitStack() as stack:

        def hold(home: Path) -> None:
            fcntl.flock(stack.enter_context(_use_of(home).open("w")), fcntl.LOCK_SH)

        here = run_aside(lambda: _copy_of(whole_url(path), scratch, hold))
        _remove_unused_states(here.parent)
        yield here


def _without_copy(path: str | Path) -> Path | None:
    """What this machine has without a copy."""
    if not is_url(path):
        return Path(path)
    url = whole_url(path)
    return Path(url.removeprefix("file://")) if url.startswith("file:") else None


def _use_of(home: Path) -> Path:
    """A file beside the copy of a state. A process that reads the copy has a shared lock on it,
    which is taken and looked at under the lock of `_locked`, so that none waits for it."""
    return home.with_name(f"{home.name}.use")


def _remove_unused_states(newest: Path) -> None:
    for path in newest.parent.glob("*.use"):
        home = path.with_suffix("")
        if home == newest or not home.is_dir():
            continue
        # Whoever has one of the locks fetches the copy, reads it or removes it.
        with suppress(BlockingIOError), _lock_of(home).open("w") as lock, path.open("w") as use:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (home / _MARK).unlink(missing_ok=True)  # first: half a copy must not count as one
            shutil.rmtree(home, ignore_errors=True)


def _copy_of(url: str, scratch: Path | None, hold: Callable[[Path], None] = lambda home: None) -> Path:
    root = (scratch or private_folder()) / "copies"
    root.mkdir(parents=True, exist_ok=True)
    home = root / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = home / url.rpartition("/")[2]
    store = Store(url)
    with _locked(home):
        files = [one for one in store.files() if not one.name.startswith(".rapo/")]
        single = store.size("") if not files else None
        if not files and single is None:
            raise ResourceError(f"{url}: nothing is stored there")
        state = hashlib.sha256(
            repr(sorted((f.name, f.size, f.changed_ns) for f in files) or single).encode()
        ).hexdigest()
        mark = home / _MARK
        if not (mark.is_file() and mark.read_text(encoding="ascii") == state):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            if files:
                _fetch_folder(store, files, target)
            else:
                store.download("", target)
            mark.write_text(state, encoding="ascii")
        hold(home)
    return target


def _lock_of(home: Path) -> Path:
    return home.with_name(f"{home.name}.lock")


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    deadline = time.monotonic() + _LIMIT_S
    with _lock_of(home).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ResourceError(f"{home} is locked by another process since {_LIMIT_S:.0f} s") from error
                time.sleep(_POLL_S)
        yield


def _fetch_folder(store: Store, files: Sequence[Stored], target: Path) -> None:
    listed = store.read(LIST)
    checksums: dict[str, str] = {}
    if listed is not None:
        try:
            checksums = {name: checksum for name, (_, checksum) in json.loads(listed).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedError(f"{store.url}/{LIST} is damaged: {brief_error(error)}") from error
        if missing := checksums.keys() - {one.name for one in files}:
            raise DamagedError(f"{store.url}: {min(missing)} is missing, which {LIST} names")

    def fetch(one: Stored) -> None:
        path = place_of(one.name, target)
        store.download(one.name, path, checksums.get(one.name))
        if path.stat().st_size != one.size:
            raise DamagedError(f"{store.url}/{one.name}: {path.stat().st_size} of {one.size} bytes came")

    store.each(fetch, files)
