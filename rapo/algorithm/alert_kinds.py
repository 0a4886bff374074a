"""Alert kinds: what an early warning of a RAPO run is, and when one begins.

- An alert of a kind is raised once when the trouble begins, and again only after it has recovered.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Literal

from rapo.config import WatchConfig

Kind = Literal[
    "not_finite", "entropy_collapse", "parse_loss", "mismatch", "no_signal", "reward_up_srcc_down", "srcc_below_best",
    "grounding_fell", "resolution_collapse",
]  # fmt: skip

#: The policy itself is broken, and further steps do not repair it. `on_collapse = "stop"` makes
#: these fatal.
COLLAPSE: frozenset[Kind] = frozenset({"not_finite", "entropy_collapse", "parse_loss"})


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem of the run from `step` on.

    `text` says what it is and what to do, `values` holds its figures by name. `fatal`: the run's
    configuration ends the training after this step.
    """

    step: int
    kind: Kind
    text: str
    values: dict[str, float]
    fatal: bool = False

    def row(self) -> dict[str, object]:
        """The alert's line in alerts.jsonl."""
        return dataclasses.asdict(self)


class ActiveKinds:
    """The kinds of which an alert was raised and that have not recovered since."""

    def __init__(self, config: WatchConfig) -> None:
        self._stop = config.on_collapse == "stop"
        self._active: set[Kind] = set()

    def __contains__(self, kind: Kind) -> bool:
        return kind in self._active

    def begins(self, kind: Kind, bad: bool, recovered: bool) -> bool:
        """Whether `kind` begins now. It then is active until it has `recovered`."""
        if kind in self._active:
            if recovered:
                self._active.discard(kind)
            return False
        if bad:
            self._active.add(kind)
        return bad

    def alert(self, step: float, kind: Kind, text: str, values: dict[str, float]) -> Alert:
        """An alert, fatal where the configuration stops the run at its kind."""
        return Alert(int(step), kind, text, values, self._stop and kind in COLLAPSE)


def as_number(value: object) -> float | None:
    """`value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int beyond the range of floats
        return None
    return number if math.isfinite(number) else None
