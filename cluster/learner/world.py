"""LearnerWorld: how many learner ranks a run goes on with.

- A node that is lost for good takes ranks with it. With `learner.min_workers` the run goes on with
  as many as there is room for, from its last checkpoint, whose state a rank converts.
- The room of the missing ranks stays asked for, which an autoscaler sees. Once it is there the run
  writes a checkpoint, and all ranks go on from it.
- Room that is there for the missing ranks may not do for all of them together
  (`learner.placement`). Where that is so the run shrinks again, and asks no more.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from cluster.remote.needs import bundle
from cluster.remote.placement import has_room, release, request_placement
from rapo.config import Config
from rapo.errors import RoleError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

#: Free room is given out in well under a second; what is not given by then is taken.
_FIT_S = 15.0


class LearnerWorld:
    """The world of a run, whose changes `note` is told of. The end of its block gives back the room
    that was asked for and not used."""

    def __init__(self, config: Config, note: Callable[[str], None]) -> None:
        self._full = config
        self._note = note
        self._workers = config.learner.workers
        self._missing: PlacementGroup | None = None
        self._grown = False  # and not seen to work since

    @property
    def config(self) -> Config:
        """The run's configuration with the present number of ranks."""
        if not self._lacking:
            return self._full
        learner = self._full.learner.model_copy(update={"workers": self._workers})
        return self._full.model_copy(update={"learner": learner})

    def shrink(self, error: RoleError) -> None:
        """Go on with as many ranks as there is room for. Raises `error`, which said that there is
        none for the present number, where there is none for `learner.min_workers` either."""
        self._release()
        fitting = self._most_fitting()
        if fitting is None:
            raise error
        self._workers = fitting
        self._note(f"{error} The run goes on with {self._words} from its last checkpoint")
        if not self._grown:
            self._missing = self._request(self._lacking)

    def can_grow(self) -> bool:
        """Whether there is room for the missing ranks. To be asked after each step, because a step
        of all ranks shows that they fit."""
        self._grown &= self._lacking > 0
        return self._missing is not None and has_room(self._missing)

    def grow(self) -> None:
        """Go on with all ranks."""
        self._release()
        self._workers, self._grown = self._full.learner.workers, True
        self._note(f"there is room again; the run goes on with {self._words}")

    @property
    def _lacking(self) -> int:
        return self._full.learner.workers - self._workers

    @property
    def _words(self) -> str:
        return f"{self._workers} of {self._full.learner.workers} learner ranks"

    def _most_fitting(self) -> int | None:
        """The largest number of ranks below the present one for which there is room now, by halving
        the interval; None where there is none."""
        least = self._full.learner.min_workers
        if least is None or least >= self._workers or not self._fits(least):
            return None
        fits, fails = least, self._workers
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if self._fits(middle) else (fits, middle)
        return fits

    def _fits(self, workers: int) -> bool:
        group = self._request(workers)
        try:
            return group is None or has_room(group, _FIT_S)
        finally:
            release(group)

    def _request(self, workers: int) -> PlacementGroup | None:
        settings = self._full.learner
        own = [bundle(settings.cpus, settings.gpus)] * workers
        return request_placement("learner", own, settings.labels, settings.placement)

    def _release(self) -> None:
        release(self._missing)
        self._missing = None

    def __enter__(self) -> LearnerWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
