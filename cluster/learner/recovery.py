"""RecoveringLearnerGroup: learner ranks that survive a death or a hang of any of them.

- After `learner.snapshot_every` steps, or `learner.snapshot_seconds` where the state is large, each
  rank puts a snapshot of its training state into the object store. Where ranks have several nodes,
  each part is copied to the next of them, beside the steps (`cluster.learner.snapshot`).
- The steps since are kept as refs. When a rank fails, all ranks are started anew from the latest
  snapshot and train these steps again from the same groups: no step is lost, none is applied twice,
  and the result is the one that an unbroken run has. Where a node took one of these groups with it,
  the state is lost.
- Ranks that ran out of memory compute each micro-batch in two parts from then on.
- A snapshot counts once all of it is in the object store, and its second copies are made or given
  up. Until then the one before is kept as well, and no other is begun for its own sake.
- A checkpoint is a snapshot that the ranks also write to the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from actors.messages import RankInfo
from cluster.learner.group import ImageRefs, LearnerGroup, RankState
from cluster.learner.snapshot import Snapshot
from cluster.remote.faults import Fault, kind_of, one_line
from cluster.remote.waiting import Waiting
from cluster.remote.weight_source import Receivers, WeightVersion
from rapo.algorithm.partition import Share
from rapo.config import Config
from rapo.errors import FaultKind, RoleError
from rapo.util.file_manifest import Entries

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")

#: Failures that new ranks would have as well.
_FINAL = (FaultKind.STATE_LOST, FaultKind.NO_ROOM)
#: A rank's state of this size is copied in well under a second.
_SMALL_BYTES = 256 * 2**20


class RecoveringLearnerGroup:
    """A `LearnerGroup` with the same calls, which survive the ranks' deaths. `make` makes a new
    group; `report` receives the faults.

    Calls that wait raise `RoleError` where the ranks fail more often than `learner.max_failures`
    times on the way through one call, where the cluster has no room for them any more
    (`FaultKind.NO_ROOM`), or where an object that they were given is lost (`FaultKind.DATA_LOST`).
    """

    def __init__(
        self, config: Config, make: Callable[[], LearnerGroup], report: Callable[[Fault], None] = lambda fault: None
    ) -> None:
        self._config = config
        self._make = make
        self._report = report
        self._group = make()
        self._model_dir = Path()
        self._resumed: tuple[Path, bool] | None = None
        self._snapshots = [Snapshot(None, copies=[])]
        self._steps = 0
        self._splits = 1
        self._snapshot_at = time.monotonic()

    @property
    def ranks(self) -> list[RankInfo]:
        """The ranks; empty until they are ready."""
        return self._group.ranks

    def start(self, model_dir: Path) -> list[ObjectRef[RankInfo]]:
        self._model_dir = model_dir
        return self._group.start(model_dir)

    def ready(self, started: Sequence[ObjectRef[RankInfo]]) -> Waiting[list[RankInfo]]:
        return self._group.ready(started)

    def load_state(self, folder: Path, *, universal: bool) -> Waiting[int]:
        """Go on from a saved state, which must stay where it is until the next step has ended."""
        self._resumed = (folder, universal)
        self._steps = yield from self._group.load_state(folder, universal=universal)
        self._take_snapshot()
        return self._steps

    def convert_state(self, folder: Path, target: Path) -> Waiting[None]:
        """Rewrite a saved state for the ranks that there are."""
        return self._group.convert_state(folder, target)

    def step(self, shares: Sequence[ObjectRef[Share]], images: Sequence[ImageRefs]) -> Waiting[dict[str, float]]:
        figures = yield from self._surviving(lambda group: group.step(shares, images))
        for snapshot in self._snapshots:
            snapshot.since.append((shares, images))
        self._steps += 1
        self._settle_snapshots()
        if self._snapshot_due():
            self._take_snapshot()
        return figures

    def _take_snapshot(self) -> list[RankState]:
        states = self._group.states()
        self._snapshots.append(Snapshot(states))
        self._snapshot_at = time.monotonic()
        self._begin_copies(self._snapshots[-1])
        return states

    def _begin_copies(self, snapshot: Snapshot) -> None:
        """Begin a snapshot's second copies, unless those of another are being made: where they take
        longer than the time between two snapshots, they would pile up."""
        if snapshot.states is None or snapshot.copies is not None or any(one.copying for one in self._snapshots):
            return
        settings = self._config.learner
        snapshot.copies = self._group.copies(snapshot.states) if settings.snapshot_buddy else []
        snapshot.copied_by = time.monotonic() + settings.step_timeout_s

    def _snapshot_due(self) -> bool:
        """Copying a large state takes as long as several steps, so that it goes by time."""
        settings = self._config.learner
        if len(self._snapshots) > 1:  # one is being made
            return False
        if settings.snapshot_every is not None:
            return len(self._snapshots[-1].since) >= settings.snapshot_every
        if max((rank.state_bytes for rank in self.ranks), default=0) <= _SMALL_BYTES:
            return True
        return time.monotonic() - self._snapshot_at >= settings.snapshot_seconds

    def _settle_snapshots(self) -> None:
        """Let go of the snapshots that a newer one has made superfluous, and of those that could
        not be made."""
        kept: list[Snapshot] = []
        for snapshot in self._snapshots:
            if not snapshot.ended():
                kept.append(snapshot)
            elif (error := snapshot.error()) is not None:
                self._report(Fault("learner", "", kind_of(error), one_line(error), "the snapshot before is kept"))
            elif self._copied(snapshot):
                kept = [snapshot]
            else:  # of those whose copies are not begun the newest will do
                kept = [*(one for one in kept if one.copies is not None), snapshot]
        self._snapshots = kept

    def _copied(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot that was made waits for no second copies any more. Without them it
        serves as long as its nodes do."""
        self._begin_copies(snapshot)
        if snapshot.copies is None:
            return False
        if snapshot.copying:
            if not snapshot.late:
                return False
            limit = self._config.learner.step_timeout_s
            kind, cause = FaultKind.LATE, f"the second copies of a snapshot were not made within {limit:.0f} s"
        elif (error := snapshot.copy_error()) is not None:
            kind, cause = kind_of(error), one_line(error)
        else:
            return True
        snapshot.give_up_copies()
        self._report(Fault("learner", "", kind, cause, "a snapshot lies on the ranks' own nodes alone"))
        return True

    def publish(self, version: int, receivers: Receivers | None = None) -> WeightVersion:
        return self._group.publish(version, receivers)

    def republish(self, version: int) -> Waiting[WeightVersion]:
        """The newest version once more, because a worker could not pull it; all of it is in the
        object store when the wait ends."""
        if version != self._steps:
            raise ValueError(f"version {version} is not the newest, the ranks are at {self._steps}")

        def work(group: LearnerGroup) -> Waiting[WeightVersion]:
            weights = group.publish(version, beside=False)
            yield from group.published(weights)
            return weights

        return (yield from self._surviving(work, retry_lost_data=True))

    def published(self, weights: WeightVersion) -> Waiting[WeightVersion]:
        """Wait until all of a version is in the object store. The result is that version, published
        anew where the ranks died meanwhile."""

        def work(group: LearnerGroup, weights: WeightVersion) -> Waiting[WeightVersion]:
            yield from group.published(weights)
            return weights

        if weights.version != self._steps:
            return weights
        return (yield from self._with_weights(weights, work))

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> Waiting[None]:
        yield from self._with_weights(weights, lambda group, held: group.save_model(folder, source, held))

    def prepare_to_save(self) -> None:
        """Do what `save_state` needs the ranks on their GPUs for."""

    def hand_over(self) -> Waiting[None]:
        """The rollout workers are to work now."""
        yield from ()

    def save_state(self, folder: Path, *, beside: bool = False) -> Waiting[Entries]:
        """Write the state after the last step into `folder`, from its snapshot; its files.

        With `beside` steps may go on meanwhile. Then a failure is raised at once, because ranks
        that died are rebuilt by the step that they were at.
        """
        if beside:
            return (yield from self._write_state(self._group, folder))
        return (yield from self._surviving(lambda group: self._write_state(group, folder)))

    def _write_state(self, group: LearnerGroup, folder: Path) -> Waiting[Entries]:
        latest = self._snapshots[-1]
        states = self._take_snapshot() if latest.states is None or latest.since else latest.states
        try:
            return (yield from group.write_state(folder, states))
        except RoleError as error:
            if error.kind is not FaultKind.DATA_LOST:
                raise
            # Not the caller's data: ranks that are rebuilt make another snapshot.
            raise RoleError(str(error), kind=FaultKind.FAILED) from error

    def close(self) -> None:
        self._group.close()

    def _with_weights(
        self, weights: WeightVersion, work: Callable[[LearnerGroup, WeightVersion], Waiting[T]]
    ) -> Waiting[T]:
        """`work` on a version; a further attempt publishes the version anew."""
        versions = [weights]

        def attempt(group: LearnerGroup) -> Waiting[T]:
            held = versions.pop() if versions else group.publish(weights.version, beside=False)
            return work(group, held)

        return (yield from self._surviving(attempt, retry_lost_data=True))

    def _surviving(self, work: Callable[[LearnerGroup], Waiting[T]], *, retry_lost_data: bool = False) -> Waiting[T]:
        """The result of `work`. When ranks fail, rebuild them and do it again. With
        `retry_lost_data`, also where an object is lost that `work` publishes itself."""
        failed: RoleError | None = None
        for left in range(self._config.learner.max_failures, -1, -1):
            if failed is not None:
                self._before_retry()
            try:
                if failed is not None and failed.kind is not FaultKind.DATA_LOST:
                    yield from self._rebuild()
                return (yield from work(self._group))
            except RoleError as error:
                lost = error.kind is FaultKind.DATA_LOST
                if not left or error.kind in _FINAL or (lost and not retry_lost_data):
                    raise
                failed = error
                action = "published again" if lost else "the ranks go on from the latest snapshot of their state"
                if error.kind is FaultKind.OUT_OF_MEMORY:  # the same groups would not fit again
                    self._splits *= 2
                    action += f", with each micro-batch in {self._splits} parts"
                self._report(Fault("learner", "", error.kind, str(error), action))
        raise AssertionError  # the last attempt returns or raises

    def _before_retry(self) -> None:
        """The ranks are about to do something again. What this raises is no failure of theirs."""

    def _rebuild(self) -> Waiting[None]:
        """New ranks in the state in which the last step left the old ones."""
        self._group.close()
        self._group = self._make()
        yield from self._group.ready(self._group.start(self._model_dir, self._splits))
        for snapshot in reversed(self._snapshots):
            if (yield from self._restore(snapshot)):
                self._snapshots = [snapshot]
                yield from self._repeat(snapshot)
                return
        raise RoleError(
            "the snapshot of the learner's state was lost together with the node that held it",
            kind=FaultKind.STATE_LOST,
        )

    def _repeat(self, snapshot: Snapshot) -> Waiting[None]:
        """Train the steps since a snapshot again."""
        try:
            for shares, images in snapshot.since:
                yield from self._group.step(shares, images)
        except RoleError as error:
            if error.kind is not FaultKind.DATA_LOST:
                raise
            # Not the caller's data: it would give the ranks its next step, with steps missing.
            raise RoleError(
                f"the groups of a step since the last snapshot of the learner's state were lost: {error}",
                kind=FaultKind.STATE_LOST,
            ) from error

    def _restore(self, snapshot: Snapshot) -> Waiting[bool]:
        """Whether the snapshot could be restored. Ranks that died while they made it have left
        their error in its place."""
        if snapshot.states is None:
            if self._resumed is not None:
                yield from self._group.load_state(self._resumed[0], universal=self._resumed[1])
            return True
        if snapshot.error() is not None:
            return False
        tried: list[list[RankState]] = []
        # Ray may notice the loss of a node only after something was fetched from there in vain.
        while (chosen := snapshot.readable()) is not None and chosen not in tried:
            try:
                yield from self._group.restore([files for _, files in chosen])
            except RoleError as error:
                if error.kind is not FaultKind.DATA_LOST:
                    raise
                tried.append(chosen)
                continue
            if chosen != snapshot.states:
                snapshot.states, snapshot.copies = chosen, []
            return True
        return False
