"""How a live run is asked for more or fewer rollout workers: a file in its folder, which the
controller looks at.

A file works wherever the run folder can be seen, asks nothing of the network, and the last request
counts.
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
        """How many workers are newly asked for, None where nobody asked. Cheap enough to call at
        any time."""
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
        except (KeyError, TypeError, ValueError):  # somebody's own writing; requests of ours appear whole
            return None
