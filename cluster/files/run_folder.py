"""A run's folder: whose it is, what is finished in it, and that no second run works in it at the
same time.

DIR/config.toml is the resolved configuration; DIR/<stage>/done.json says that a stage is finished
and how long it took. A stage without that file is run again from its start.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.files.atomic import read_json, write_atomic, write_json
from rapo.config import Config, diff_config, dump_config, load_config
from rapo.errors import ConfigError, RunFolderError

_CONFIG, _LOCK = "config.toml", ".lock"


class RunFolder:
    """The folder of one run. `open` it before use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def open(self, config: Config) -> Iterator[None]:
        """Create or join the folder and lock it.

        Raises `RunFolderError` where another run works in it, where another configuration made it,
        or where it is no run's.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_config(config)  # before anything is written: a stranger's folder stays as it was
            lock_file = (self.path / _LOCK).open("w")
        except (FileExistsError, NotADirectoryError) as error:
            raise RunFolderError(f"{self.path} is a file, not a folder; give another --out.") from error
        except PermissionError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}. Give another --out.") from error
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"another run is working in {self.path}; wait for it or give another --out."
                ) from error
            write_atomic(self.path / _CONFIG, dump_config(config))
            yield

    def _check_config(self, config: Config) -> None:
        stored = self.path / _CONFIG
        if not stored.is_file():
            if any(p.name != _LOCK for p in self.path.iterdir()):
                raise RunFolderError(f"{self.path} is not empty and is no run folder; give a new --out.")
            return
        try:
            old = load_config(stored)
        except ConfigError as error:
            raise RunFolderError(f"{self.path} was made by another version of rapo or is damaged: {error}") from error
        changes = diff_config(old, config)
        if changes:
            raise RunFolderError(
                f"{self.path} was made by another configuration. Differing keys: {'; '.join(changes)}. "
                "Give another --out, or the same configuration to continue."
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

    def finished(self, stage: str) -> dict[str, Any] | None:
        """What `finish` noted for a stage, or None where the stage is not finished."""
        path = self.path / stage / "done.json"
        return read_json(path) if path.is_file() else None

    def finish(self, stage: str, seconds: float, **facts: Any) -> None:
        (self.path / stage).mkdir(parents=True, exist_ok=True)
        write_json(self.path / stage / "done.json", {"seconds": seconds, "finished": time.time(), **facts})
