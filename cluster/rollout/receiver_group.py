"""ReceiverGroup: which workers receive a broadcast weight version together.

- The group keeps its epoch, and so its connections, while its workers stay the same and no
  broadcast fails. Otherwise the next version has a group of its own.
- A worker that joins late is in the group of the next version.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.remote.weight_source import Receivers


class ReceiverGroup:
    """The workers of the last broadcast, by number, and the epoch of their connections."""

    def __init__(self) -> None:
        self._receivers = Receivers(0, ())
        self._sound = False

    def form(self, workers: Iterable[int]) -> Receivers | None:
        """The group of the next version, of `workers`; None where there are none."""
        numbers = tuple(sorted(workers))
        if not self._sound or numbers != self._receivers.workers:
            self._receivers = Receivers(self._receivers.epoch + 1, numbers)
        self._sound = bool(numbers)
        return self._receivers if numbers else None

    def fail(self, epoch: int) -> bool:
        """A broadcast in the group of this epoch has failed; whether that is news."""
        news = self._sound and epoch == self._receivers.epoch
        if news:
            self._sound = False
        return news
