"""FolderSnapshot: a folder's state in object storage, from which it can be made again.

    .rapo/manifest.json    size and xxh3-128 of each file, by path
    .rapo/blobs/CHECKSUM   the content of a file

- The manifest alone says what the state is, and one write replaces it: a state is visible whole or
  not at all.
- Content that is there already is not sent again.
- Files that grow are taken as far as they were when they were read; a file is listed before it is
  read. So logs reach at least as far as the checkpoint beside them.
- What is removed while it is sent is sent all the same, under a second name. So a storage that is
  slower than the checkpoints gets whole ones, if not each.
- What is fetched is verified.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from rapo.errors import ResourceError
from rapo.storage.local_mark import MARK, LocalMark, look_at
from rapo.storage.store import DamagedError, Store, place_of
from rapo.util.brief import brief_error
from rapo.util.file_manifest import Entries, damage

_MANIFEST, _BLOBS = ".rapo/manifest.json", ".rapo/blobs"
#: In a published folder: size and xxh3-128 of each of its files, by path.
LIST = ".rapo-files.json"
_TRIES = 20
# Larger files are not held in memory.
_SMALL = 32 * 2**20


class ChangedError(Exception):
    """A file went or changed in the middle while it was read."""


@dataclass(frozen=True, slots=True)
class State:
    """A state of a folder: its name, and its files."""

    name: str
    files: Entries = field(default_factory=dict)

    def content(self) -> bytes:
        """As the manifest holds it."""
        return json.dumps({"state": self.name, "files": self.files}, indent=1).encode()


def read_state(store: Store) -> State | None:
    """The state that a store holds; None where it holds none. Raises `ResourceError` for a manifest
    that cannot be read."""
    content = store.read(_MANIFEST)
    if content is None:
        return None
    try:
        read = json.loads(content)
        return State(read["state"], {name: (size, checksum) for name, (size, checksum) in read["files"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResourceError(f"{store.url}/{_MANIFEST} is damaged: {brief_error(error)}") from error


class FolderSnapshot:
    """Keeps `store` at the state of `folder`. `skip` says which paths, relative to the folder, are
    left out. One thread at a time."""

    def __init__(self, folder: Path, store: Store, skip: Callable[[Path], bool] = lambda path: False) -> None:
        self._folder = folder
        self._store = store
        self._skip = skip
        self._state = read_state(store)
        self._previous = self._state
        #: Checksum by path, with the mark of the file that it is of.
        self._known: dict[str, tuple[tuple[int, int, int], tuple[int, str]]] = {}
        self._lock = threading.Lock()

    def restore(self, note: Callable[[str], None] = lambda text: None) -> bool:
        """Make the folder what the store holds, unless that was the last to be stored from it;
        whether it changed. Files that were never stored are kept in a folder beside it, which
        `note` is told.

        Raises `ResourceError` where the stored state cannot be fetched, or is damaged.
        """
        mark = LocalMark.read(self._folder)
        if self._state is None or self._state.name in mark.states:
            return False
        aside = self._folder.with_name(f".{self._folder.name}.restored")
        fetched = (aside / MARK).is_file()  # by a call that was cut off while it moved the files
        shutil.rmtree(aside, ignore_errors=True)
        fetch(self._store, self._state.files, aside)
        if not fetched and mark.lacks(self._folder, self._listed()):
            kept = self._folder.with_name(f"{self._folder.name}.unstored-{secrets.token_hex(4)}")
            self._folder.replace(kept)
            note(
                f"{self._store.url} holds a later state of another machine; what was not stored of this one is in {kept}"
            )
        LocalMark((self._state.name,), look_at(aside, self._state.files)).write(aside)
        for path in self._folder.glob("*"):
            if not self._skip(path.relative_to(self._folder)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        # The mark goes last: a folder that has it is complete.
        for path in sorted(aside.glob("*"), key=lambda path: path.name == MARK):
            path.replace(self._folder / path.name)
        aside.rmdir()
        return True

    def store(self, before_manifest: Callable[[], None] = lambda: None) -> bool:
        """Store the folder's state; whether it differed. `before_manifest` may raise to leave the
        store's state as it is.

        Raises `ResourceError` where the store does not take it, or where the folder is gone: what
        is stored stays.
        """
        for _ in range(_TRIES):
            try:
                files = self._send()
                break
            except ChangedError:
                continue
        else:
            raise ResourceError(f"{self._folder} changes faster than it can be stored at {self._store.url}")
        looks = {name: self._known[name][0][:2] for name in files}
        if files == (self._state.files if self._state is not None else {}):
            if self._state is not None:
                LocalMark((self._state.name,), looks).write(self._folder)
            return False
        if not files:
            raise ResourceError(f"{self._folder} is empty or gone; what is stored at {self._store.url} stays as it is")
        before_manifest()
        state = State(secrets.token_hex(8), files)
        mark = LocalMark.read(self._folder)
        LocalMark((*mark.states, state.name), mark.files).write(self._folder)
        self._store.write(_MANIFEST, state.content())
        LocalMark((state.name,), looks).write(self._folder)
        self._previous, self._state = self._state, state
        self._forget_old()
        return True

    def publish(self, name: str) -> None:
        """Copy a file or a folder of the stored state to its own name in the store, for other
        programs; the store does that itself. Last comes a list of a folder's files (`LIST`); where
        that is there already, so are they."""
        assert self._state is not None, "store first"
        if name in self._state.files:
            self._store.copy(f"{_BLOBS}/{self._state.files[name][1]}", name)
            return
        folder = name
        inside = {name: entry for name, entry in self._state.files.items() if name.startswith(f"{folder}/")}
        if not inside:
            return
        files = {name.removeprefix(f"{folder}/"): entry for name, entry in inside.items()}
        listed = json.dumps(files, indent=1).encode()
        if self._store.read(f"{folder}/{LIST}") == listed:
            return
        self._store.each(lambda name: self._store.copy(f"{_BLOBS}/{inside[name][1]}", name), inside)
        self._store.write(f"{folder}/{LIST}", listed)

    def _listed(self) -> list[str]:
        """The files of the folder. What appears together is listed together: twice in a row the
        same names were there."""
        before: list[str] | None = None
        for _ in range(_TRIES):
            now = []
            for folder, folders, names in os.walk(self._folder):
                inside = Path(folder).relative_to(self._folder)
                folders[:] = sorted(name for name in folders if not self._left_out(inside / name))
                now += [(inside / name).as_posix() for name in names if not self._left_out(inside / name)]
            now.sort()
            if now == before:
                return now
            before = now
        raise ChangedError

    def _left_out(self, path: Path) -> bool:
        return path.name == MARK or path.name.endswith((".tmp", ".partial", ".restored")) or self._skip(path)

    def _send(self) -> Entries:
        there = set() if self._state is None else {checksum for _, checksum in self._state.files.values()}
        files, new = {}, []
        try:
            for name in self._listed():
                mark, entry = self._known.get(name, (None, (0, "")))
                if entry[1] in there and mark == _mark(self._folder / name):
                    files[name] = entry
                else:
                    new.append(name)
        except OSError as error:
            raise ChangedError from error
        with self._held(new) as held:
            entries = self._store.each(lambda name: self._send_one(name, held / name, there), new)
        return files | dict(zip(new, entries, strict=True))

    @contextmanager
    def _held(self, names: Sequence[str]) -> Iterator[Path]:
        """A folder with second names of files, which therefore stay for the length of the block."""
        aside = held = self._folder.with_name(f".{self._folder.name}.sending")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            for name in names:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                os.link((self._folder / name).resolve(), aside / name)
        except FileNotFoundError as error:
            raise ChangedError from error
        except OSError:  # a file system without second names; what goes meanwhile is then looked for anew
            held = self._folder
        try:
            yield held
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _send_one(self, name: str, path: Path, there: set[str]) -> tuple[int, str]:
        try:
            mark = _mark(path)
            size, checksum = mark[0], _checksum(path, mark[0])
            with self._lock:
                new = checksum not in there
                there.add(checksum)
            if new and self._store.size(f"{_BLOBS}/{checksum}") != size:
                sent = self._store.upload(path, f"{_BLOBS}/{checksum}", size)
                if sent != checksum:
                    self._store.delete(f"{_BLOBS}/{checksum}")
                    raise ChangedError
        except BaseException as error:
            # Whoever waits for the same content must not take it for stored.
            if isinstance(error, OSError):
                raise ChangedError from error
            raise
        self._known[name] = (mark, (size, checksum))
        return size, checksum

    def _forget_old(self) -> None:
        """Delete content of no state but the last two: somebody may be reading the one before."""
        kept = {
            entry[1] for state in (self._state, self._previous) if state is not None for entry in state.files.values()
        }
        for stored in self._store.files(_BLOBS):
            if stored.name.rpartition("/")[2] not in kept:
                self._store.delete(stored.name)


def fetch(store: Store, files: Entries, folder: Path) -> None:
    """Fetch the files of a state into a folder. Content that several have is fetched once."""
    folder.mkdir(parents=True, exist_ok=True)
    by_content: dict[str, list[str]] = {}
    for name, (_, checksum) in files.items():
        by_content.setdefault(checksum, []).append(name)

    def fetch_one(checksum: str) -> None:
        first, *others = (place_of(name, folder) for name in by_content[checksum])
        store.download(f"{_BLOBS}/{checksum}", first, checksum)
        for other in others:
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, other)

    store.each(fetch_one, by_content)
    if (wrong := damage(folder, files)) is not None:
        raise DamagedError(f"{folder}: {wrong}")


def _mark(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that replaced it."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _checksum(path: Path, size: int) -> str:
    digest, left = xxhash.xxh3_128(), size
    with path.open("rb") as file:
        while left and (piece := file.read(min(left, _SMALL))):
            digest.update(piece)
            left -= len(piece)
    if left:
        raise ChangedError
    return digest.hexdigest()
