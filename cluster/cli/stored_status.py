"""StoredRun: the status of a run at a URL, from the few of its files that tell it.

- Nothing is written to the storage, and the run is not disturbed.
- What is shown is what the run stored last, at most `storage.every_s` seconds ago while it works.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cluster.cli.status import RunStatus, run_status
from cluster.files.run_mirror import LEASE_S, read_owner
from cluster.pipeline.runner import STAGES
from rapo.errors import ResourceError, RunFolderError
from rapo.storage.snapshot import State, fetch, read_state
from rapo.storage.store import Store
from rapo.util.file_manifest import Entries

_PATIENCE_S = 20.0
_TRIES = 3
_NAMES = frozenset(
    {
        "config.toml",
        "rapo/state.json",
        "rapo/faults.jsonl",
        "rapo/alerts.jsonl",
        *(f"{stage}/{name}" for stage in STAGES for name in ("done.json", "metrics.jsonl")),
    }
)


class StoredRun:
    """The run at `url`; `folder` is for copies of its files."""

    def __init__(self, url: str | Path, folder: Path) -> None:
        self._store = Store(url, _PATIENCE_S)
        self._folder = folder
        self._copied: Entries = {}

    def status(self, now: float | None = None) -> RunStatus:
        """What the run stored last. Raises `RunFolderError` where no run is stored, `ResourceError`
        where the storage does not answer."""
        for turn in range(_TRIES):
            state = read_state(self._store)
            if state is None or "config.toml" not in state.files:
                raise RunFolderError(f"{self._store.url} holds no run")
            try:
                self._copy(state)
                break
            except ResourceError:  # a run deletes the content of states before its last two
                if turn == _TRIES - 1:
                    raise
        now = time.time() if now is None else now
        status, owner = run_status(self._folder, now), read_owner(self._store)
        driver = status.driver
        # Twice the limit, for clocks that differ.
        if owner is not None and now - owner.time < 2 * LEASE_S:
            driver = replace(driver, state="running", pid=owner.pid)
        return replace(status, run=self._store.url, driver=driver)

    def _copy(self, state: State) -> None:
        files = {name: entry for name, entry in state.files.items() if name in _NAMES}
        fetch(
            self._store, {name: entry for name, entry in files.items() if self._copied.get(name) != entry}, self._folder
        )
        for gone in self._copied.keys() - files.keys():
            (self._folder / gone).unlink(missing_ok=True)
        self._copied = files
        begun = {name.partition("/")[0] for name in state.files if "/" in name}
        for stage in STAGES:  # a folder says that its stage has begun
            if stage in begun:
                (self._folder / stage).mkdir(exist_ok=True)
            else:
                shutil.rmtree(self._folder / stage, ignore_errors=True)


@contextmanager
def stored_run(url: str | Path) -> Iterator[StoredRun]:
    """The run at a URL, with its copies in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="rapo-status-") as folder:
        yield StoredRun(url, Path(folder))
