"""RunFolder: the folder of one run.

- DIR/config.toml is the resolved configuration. Another configuration is refused, except for the
  keys that may change between two starts. A folder that has no more than an unfinished data stage
  binds nothing: it starts over under the new configuration.
- Only DIR/data is ever removed, and only where DIR was empty when the first run came. DIR/.lock
  says so.
- The lock keeps a second run out.
- DIR/<stage>/done.json says that a stage is finished. A stage without it is run again from its
  start.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cluster.files.atomic import write_atomic, write_json
from cluster.files.folder_lock import folder_opened, hold
from cluster.files.json_values import to_json_value
from cluster.files.typed_json import read_json_as
from rapo.config import Config, diff_config, dump_config, load_config
from rapo.errors import ConfigError, RunFolderError

_CONFIG, _LOCK = "config.toml", ".lock"
_DATA = "data"
#: What the stages after the first one make.
_LATER = ("policy", "aescot", "coldstart", "rapo", "evaluate", "export", "serve")
#: The content of the lock of a folder that was empty when the first run came.
_WAS_EMPTY = "was empty"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Finished:
    """The part of done.json that is the same for every stage. `finished` is a Unix time."""

    seconds: float
    finished: float


class RunFolder:
    """`open` it before a stage is run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def open(self, config: Config) -> Iterator[list[str]]:
        """Create or join the folder and lock it. Yields the keys of a former configuration that
        were given up because no more than a data stage had begun under it, as `key: old -> new`.

        Raises `RunFolderError` where another run is working in it, where it was made by another
        configuration, or where it is no run folder.
        """
        with folder_opened(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_config(config)  # before anything is written: a folder of something else stays as it was
            empty = not (self.path / _CONFIG).is_file()
            lock_file = (self.path / _LOCK).open("a")
        with lock_file as lock:
            hold(lock, self.path, "run")
            if changes := self._check_config(config):  # the run that held the lock may have finished a stage
                shutil.rmtree(self.path / _DATA, ignore_errors=True)
            if empty:
                (self.path / _LOCK).write_text(_WAS_EMPTY, encoding="utf-8")
            write_atomic(self.path / _CONFIG, dump_config(config))
            yield changes

    def _check_config(self, config: Config) -> list[str]:
        """The keys that differ from the folder's configuration, where that may be replaced."""
        stored = self.path / _CONFIG
        if not stored.is_file():
            if any(p.name != _LOCK for p in self.path.iterdir()):
                raise RunFolderError(f"{self.path} is not empty and is no run folder; give a new --out.")
            return []
        try:
            old = load_config(stored)
        except ConfigError as error:
            raise RunFolderError(f"{self.path} was made by another version of rapo or is damaged: {error}") from error
        changes = diff_config(old, config)
        if changes and not self._may_start_over():
            raise RunFolderError(
                f"{self.path} was made by another configuration. Differing keys: {'; '.join(changes)}. "
                "Give another --out, or the same configuration to continue."
            )
        return changes

    def _may_start_over(self) -> bool:
        """Whether no stage is finished or begun but the first, which is not finished, and its
        folder can hold nothing but what it has made."""
        lock = self.path / _LOCK
        return (
            not (self.path / _DATA / "done.json").is_file()
            and not any((self.path / name).exists() for name in _LATER)
            and lock.is_file()
            and lock.read_text(encoding="utf-8") == _WAS_EMPTY
        )

    def busy(self) -> bool:
        """Whether a run is working in the folder right now."""
        try:
            with (self.path / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def finished(self, stage: str) -> Finished | None:
        """When a stage was finished and how long it took, None where it is not."""
        return self.result(stage, Finished)

    def result(self, stage: str, kind: type[Result]) -> Result | None:
        """What `finish` noted for a stage, None where it is not finished."""
        path = self.path / stage / "done.json"
        return read_json_as(path, kind) if path.is_file() else None

    def finish(self, stage: str, seconds: float, result: object = None) -> None:
        """Note that a stage is finished, with its `result`, a dataclass of plain values."""
        facts = to_json_value(result, "result")
        (self.path / stage).mkdir(parents=True, exist_ok=True)
        done = {"seconds": seconds, "finished": time.time()} | (facts if isinstance(facts, dict) else {})
        write_json(self.path / stage / "done.json", done)
