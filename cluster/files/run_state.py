"""RunState: what `rapo/state.json` holds of a run that is working, read with checks.

The file is written by `cluster.monitoring.run_state_writer` and may be of another version of rapo:
a fact that is missing or of another shape is None or empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.files.json_values import JsonRow, finite


@dataclass(frozen=True, slots=True)
class RunState:
    """`version` is that of the weights. `workers` are as `WorkerHandle.row` describes them, and so
    many are `wanted`. `window` counts groups by state. `updated` is a Unix time."""

    step: int | None = None
    steps: int | None = None
    version: int | None = None
    updated: float | None = None
    wanted: int | None = None
    workers: list[JsonRow] = field(default_factory=list)
    window: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, state: object) -> RunState:
        if not isinstance(state, Mapping):
            return cls()
        fleet, window = (part if isinstance(part := state.get(key), Mapping) else {} for key in ("fleet", "window"))
        workers = fleet.get("workers")
        return cls(
            step=whole(state.get("step")),
            steps=whole(state.get("steps")),
            version=whole(state.get("version")),
            updated=finite(state.get("updated")),
            wanted=whole(fleet.get("wanted")),
            workers=[row for row in workers if isinstance(row, dict)] if isinstance(workers, list) else [],
            window={str(name): count for name, value in window.items() if (count := whole(value)) is not None},
        )


def worker_counts(workers: Sequence[JsonRow]) -> dict[str, int]:
    """Workers by state, in order of first appearance."""
    return dict(Counter(str(worker.get("state")) for worker in workers))


def whole(value: object) -> int | None:
    """`value` as an int, or None where it is not a finite number."""
    number = finite(value)
    return None if number is None else round(number)
