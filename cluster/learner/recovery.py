"""Learners that survive: when a rank dies or hangs, all are started anew and go on from the last
copy of their state.

After every `learner.snapshot_every` steps each rank puts a copy of its training state into the
object store. This process owns the copies, so they outlive the ranks (not the node that holds one).
What was trained since is kept as refs and trained again, from the same groups: no step is lost,
none is applied twice, and the result is the one that there would have been.

A copy counts once the step after it has ended, because by then it has been made; until then the one
before is kept as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray

from cluster.learner.group import LearnerGroup, Meanwhile
from cluster.remote.faults import Fault, Report, kind_of, one_line
from cluster.remote.weights import WeightVersion
from rapo.config import Config
from rapo.errors import RoleError
from rapo.util.file_manifest import Entries

T = TypeVar("T")

#: A step as the ranks are given it: shares and images.
Step = tuple[Sequence[Any], Sequence[dict[str, Any]]]


@dataclass(slots=True)
class _Copy:
    """The ranks' states, a receipt and a ref to the files each (None: as they started), and the
    steps trained since."""

    states: list[tuple[Any, Any]] | None
    since: list[Step] = field(default_factory=list)

    def made(self) -> Exception | None:
        """Why the copy could not be made, None where it was."""
        try:
            ray.get([receipt for receipt, _ in self.states or ()], timeout=_RECEIPT_S)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            return error
        return None


_RECEIPT_S = 60.0


class RecoveringLearnerGroup:
    """A `LearnerGroup` with the same calls, which survive the ranks' deaths. `make` makes the group
    anew.

    `step`, `publish`, `published`, `save_model` and `save_state` raise `RoleError` where the ranks
    fail more often than `learner.max_failures` times on the way through one call, or fail over what
    they were given (`kind` "data lost").
    """

    def __init__(self, config: Config, make: Callable[[], LearnerGroup], report: Report = lambda fault: None) -> None:
        self._config = config
        self._make = make
        self.report = report
        self._group = make()
        self._model_dir = Path()
        self._resume: tuple[Path, bool] | None = None
        self._copies = [_Copy(None)]
        self._steps = 0

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What and where the ranks are."""
        return self._group.facts

    def start(self, model_dir: Path) -> list[Any]:
        self._model_dir = model_dir
        return self._group.start(model_dir)

    def ready(self, started: Sequence[Any]) -> list[dict[str, Any]]:
        return self._group.ready(started)

    def load_state(self, folder: Path, *, universal: bool) -> int:
        """Go on from a saved state, which must stay where it is until the next step has ended."""
        self._resume = (folder, universal)
        self._steps = self._group.load_state(folder, universal=universal)
        self._copies.append(_Copy(self._group.states()))
        return self._steps

    def step(
        self, shares: Sequence[Any], images: Sequence[dict[str, Any]], meanwhile: Meanwhile | None = None
    ) -> dict[str, float]:
        metrics = self._surviving(lambda group: group.step(shares, images, meanwhile), meanwhile)
        for copy in self._copies:
            copy.since.append((shares, images))
        self._steps += 1
        self._settle_copies()
        if len(self._copies[-1].since) >= self._config.learner.snapshot_every:
            self._copies.append(_Copy(self._group.states()))
        return metrics

    def _settle_copies(self) -> None:
        """The latest copy was made before the step that has just ended, so now it is known whether
        it was."""
        if len(self._copies) == 1:
            return
        error = self._copies[-1].made()
        if error is None:
            self._copies = self._copies[-1:]
        else:
            self._copies = self._copies[:1]
            self.report(Fault("learner", "", kind_of(error), one_line(error), "the copy of its state before is kept"))

    def publish(self, version: int) -> WeightVersion:
        return self._group.publish(version)

    def publish_again(self, version: int, meanwhile: Meanwhile | None = None) -> WeightVersion:
        """The newest version, which somebody could not pull, once more; all of it is in the object
        store then."""
        if version != self._steps:
            raise ValueError(f"version {version} is not the newest, the ranks are at {self._steps}")
        held: list[WeightVersion] = []

        def work(group: LearnerGroup) -> None:
            held[:] = [group.publish(version, beside=False)]
            group.published(held[0], meanwhile)

        self._surviving(work, meanwhile, lambda group: None)
        return held[0]

    def published(self, weights: WeightVersion, meanwhile: Meanwhile | None = None) -> WeightVersion:
        """Wait until all of a version is in the object store; the version as it is there in the
        end."""
        held = [weights]

        def settle(group: LearnerGroup) -> None:
            group.published(held[0], meanwhile)

        def again(group: LearnerGroup) -> None:
            held[0] = group.publish(weights.version, beside=False)

        if weights.version == self._steps:
            self._surviving(settle, meanwhile, again)
        return held[0]

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> None:
        held = [weights]

        def again(group: LearnerGroup) -> None:
            held[0] = group.publish(weights.version, beside=False)

        self._surviving(lambda group: group.save_model(folder, source, held[0]), None, again)

    def save_state(self, folder: Path) -> Entries:
        return self._surviving(lambda group: group.save_state(folder), None)

    def close(self) -> None:
        self._group.close()

    def _surviving(
        self,
        work: Callable[[LearnerGroup], T],
        meanwhile: Meanwhile | None,
        prepare: Callable[[LearnerGroup], None] | None = None,
    ) -> T:
        """Do `work`. When ranks fail, rebuild them, `prepare`, and do it again; where what they
        were given is lost, `prepare` gives it anew."""
        failed: RoleError | None = None
        for left in range(self._config.learner.max_failures, -1, -1):
            try:
                if failed is not None and failed.kind != "data lost":
                    self._rebuild(meanwhile)
                if failed is not None and prepare is not None:
                    prepare(self._group)
                return work(self._group)
            except RoleError as error:
                if not left or error.kind == "state lost" or (error.kind == "data lost" and prepare is None):
                    raise
                failed = error
                action = "the ranks go on from the last copy of their state"
                if error.kind == "data lost":
                    action = "published again"
                self.report(Fault("learner", "", error.kind, str(error), action))
        raise AssertionError  # the last attempt returns or raises

    def _rebuild(self, meanwhile: Meanwhile | None) -> None:
        """New ranks in the state in which the last step left the old ones."""
        self._group.close()
        self._group = self._make()
        self._group.ready(self._group.start(self._model_dir), meanwhile)
        for copy in reversed(self._copies):
            if self._take_over(copy, meanwhile):
                self._copies = [copy]
                for shares, images in copy.since:
                    self._group.step(shares, images, meanwhile)
                return
        raise RoleError(
            "the copy of the learner's state was lost together with the node that held it", kind="state lost"
        )

    def _take_over(self, copy: _Copy, meanwhile: Meanwhile | None) -> bool:
        """Whether the copy could still be had. Ranks that died while they made it have left their
        error in its place."""
        if copy.states is None:
            if self._resume is not None:
                self._group.load_state(self._resume[0], universal=self._resume[1])
            return True
        if copy.made() is not None:
            return False
        try:
            self._group.restore([files for _, files in copy.states], meanwhile)
        except RoleError as error:
            if error.kind != "data lost":
                raise
            return False
        return True
