"""ColocatedLearners: learner ranks that share their GPUs with rollout workers, in turn.

- Before the ranks work on their GPUs, all engines sleep. Before the engines wake, all ranks have
  parked their tensors in the host's memory. So either side may fill the GPUs.
- Turns change when the other side is needed, and at no other time.
- The ranks are also rebuilt in their own turn only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from cluster.learner.group import ImageRefs, LearnerGroup
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.faults import Fault
from cluster.remote.waiting import Waiting
from cluster.remote.weight_source import Receivers, WeightVersion
from rapo.algorithm.partition import Share
from rapo.config import Config

if TYPE_CHECKING:
    from ray import ObjectRef


class Engines(Protocol):
    """What the ranks share their GPUs with; see `cluster.rollout.fleet.Fleet`."""

    @property
    def asleep(self) -> bool: ...
    @property
    def waking_seconds(self) -> float: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...


class ColocatedLearners(RecoveringLearnerGroup):
    """A `RecoveringLearnerGroup` that has `engines` asleep whenever the ranks need their GPUs.

    The figures of a step have `sleep_s`, how long the engines took to sleep since the step before,
    and `wake_s`, how long the ranks took to park and the first engine to wake and load.
    """

    def __init__(
        self,
        config: Config,
        make: Callable[[], LearnerGroup],
        engines: Engines,
        report: Callable[[Fault], None] = lambda fault: None,
    ) -> None:
        super().__init__(config, make, report)
        self._engines = engines
        self._sleep_s = self._park_s = self._woken_s = 0.0

    def step(self, shares: Sequence[ObjectRef[Share]], images: Sequence[ImageRefs]) -> Waiting[dict[str, float]]:
        self._take_over()
        woken = self._engines.waking_seconds
        turns = {"sleep_s": self._sleep_s, "wake_s": self._park_s + woken - self._woken_s}
        self._sleep_s, self._park_s, self._woken_s = 0.0, 0.0, woken
        return (yield from super().step(shares, images)) | turns

    def publish(self, version: int, receivers: Receivers | None = None) -> WeightVersion:
        self._take_over()
        return super().publish(version, receivers)

    def republish(self, version: int) -> Waiting[WeightVersion]:
        self._take_over()
        return (yield from super().republish(version))

    def prepare_to_save(self) -> None:
        latest = self._snapshots[-1]
        if latest.states is None or latest.since:
            self._take_over()
            self._take_snapshot()  # parking waits for it

    def hand_over(self) -> Waiting[None]:
        if not self._engines.asleep:
            return
        began = time.monotonic()
        yield from self._surviving(lambda group: group.park())
        self._park_s += time.monotonic() - began
        self._engines.wake()

    def _before_retry(self) -> None:
        self._take_over()

    def _take_over(self) -> None:
        if not self._engines.asleep:
            began = time.monotonic()
            self._engines.sleep()
            self._sleep_s += time.monotonic() - began
