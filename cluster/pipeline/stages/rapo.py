"""RAPO stage: trains the cold-start model with the RAPO loop.

Where an earlier attempt in the same folder left a checkpoint, the loop goes on from there: after
the loss of the learner's state, and with another number of ranks (`cluster.learner.world`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.files.alerts import ALERTS
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.learner.world import LearnerWorld
from cluster.monitoring.recorder import RunRecorder
from cluster.remote.stop_request import stop_requests
from cluster.remote.waiting import finish
from cluster.rollout.fleet import Fleet
from cluster.training.checkpoint import Checkpoint, Checkpoints, cut_back
from cluster.training.controller import LEDGER, TrainingData, TrainingResult
from cluster.training.metrics_file import METRICS
from cluster.training.session import training_session
from rapo.config import Config
from rapo.errors import FaultKind, RoleError, StoppedError

#: How often a run goes back to the same checkpoint because the learner's state was lost.
_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class RapoStage:
    """What the attempts of a stage share. `out` gets metrics, states and models; `recorder` is the
    listener of `fleet`; `where` is for nodes that do not see the run's folder (`LearnerGroup`)."""

    config: Config
    data: TrainingData
    start_dir: Path
    out: Path
    fleet: Fleet
    recorder: RunRecorder
    note: Callable[[str], None]
    where: Callable[[Path], Path] | None = None

    def train(self) -> TrainingResult:
        """Train from the model of `start_dir`, or on from the last checkpoint."""
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(self.out / "state", self.config.rapo.keep_checkpoints)
        attempts, reached = 0, -1
        with LearnerWorld(self.config, self.note) as world:
            while True:
                try:
                    result = self._attempt(world, checkpoints)
                except RoleError as error:
                    if error.kind is FaultKind.NO_ROOM:
                        world.shrink(error)
                        continue
                    attempts = 0 if checkpoints.newest > reached else attempts + 1
                    reached = checkpoints.newest
                    if error.kind is not FaultKind.STATE_LOST or attempts == _RESTARTS:
                        raise
                    self.note(f"{error}; the run goes back to its last checkpoint")
                else:
                    if result is not None:
                        return result
                    world.grow()

    def _attempt(self, world: LearnerWorld, checkpoints: Checkpoints) -> TrainingResult | None:
        """None where the run stopped at a checkpoint because the world can grow."""
        config = world.config
        checkpoint = self._begin(checkpoints)

        def resume(learners: RecoveringLearnerGroup) -> Checkpoint | None:
            if checkpoint is not None:
                self._load(config, learners, checkpoint, checkpoints)
            return checkpoint

        with (
            self.recorder.recording(0 if checkpoint is None else checkpoint.step),
            training_session(
                config,
                self.data,
                self.start_dir,
                self.out,
                fleet=self.fleet,
                listener=self.recorder,
                resume=resume,
                where=self.where,
            ) as controller,
            # After the start of the roles, because Ray installs a handler of its own.
            stop_requests() as stop,
        ):
            self.recorder.follow(controller)
            try:
                return controller.run(lambda: stop() or world.can_grow())
            except StoppedError:
                if stop():
                    raise
                return None

    def _begin(self, checkpoints: Checkpoints) -> Checkpoint | None:
        """The checkpoint to go on from. Without one the stage starts over, and what an unfinished
        attempt wrote is removed."""
        found = checkpoints.latest(self.note)
        if found is None:
            for name in (METRICS, LEDGER, ALERTS):  # the faults that were survived stay written
                (self.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)
            return None
        found.state.check_convertible(self.config)
        for name in (METRICS, LEDGER, ALERTS):
            cut_back(self.out / name, found.step)
        self.note(f"goes on after step {found.step}")
        return found

    def _load(
        self, config: Config, learners: RecoveringLearnerGroup, checkpoint: Checkpoint, checkpoints: Checkpoints
    ) -> None:
        """Have the ranks go on from a checkpoint, which one of them converts where another number
        of ranks, or another ZeRO stage, wrote it."""
        if checkpoint.state.fits(config):
            finish(learners.load_state(checkpoint.learner, universal=False))
            return
        converted = checkpoints.converted(checkpoint)
        finish(learners.convert_state(checkpoint.learner, converted))
        finish(learners.load_state(converted, universal=True))
