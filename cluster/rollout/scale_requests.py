"""Scale requests: a file in the run folder that asks a live run for more or fewer rollout workers.

A file works wherever the run folder can be seen and needs no network. The last request counts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from cluster.files.atomic import write_json
from rapo.errors import ConfigError

_FILE = "scale.json"
_LOOK_S = 1.0


def ask_for(rapo_dir: Path, workers: int) -> None:
    """Ask the run whose RAPO folder this is for `workers` rollout workers."""
    if workers < 1:
        raise ConfigError(f"a run needs at least one rollout worker, not {workers}")
    write_json(rapo_dir / _FILE, {"rollouts": workers, "time": time.time()})


class ScaleRequests:
    """The requests that come after this object was made."""

    def __init__(self, rapo_dir: Path) -> None:
        self._path = rapo_dir / _FILE
        self._path.unlink(missing_ok=True)
        self._seen = 0
        self._looked = 0.0

    def take(self) -> int | None:
        """The number of workers of a new request, None where there is none. It looks at the file at
        most once a second."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return None
        self._looked = now
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._seen:
                return None
            self._seen = stamp
            return int(json.loads(self._path.read_bytes())["rollouts"])
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError):  # written by hand; `ask_for` writes whole requests
            return None
