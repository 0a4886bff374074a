"""CheckpointWriter: writes the run's state while training goes on.

- A checkpoint is the state at the end of the step at which it began, whatever happens meanwhile:
  the driver's part is on the disk at once, the ranks' part comes from their snapshot.
- One is written at a time.
- One that fails is given up. The state before stays, and the caller begins another after its next
  step, which has rebuilt ranks that died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.faults import Fault
from cluster.remote.waiting import Waiting
from cluster.training.best_model import BestModel
from cluster.training.checkpoint import Checkpoints, SavedGroups, TrainingState
from rapo.config import Config
from rapo.errors import RoleError

if TYPE_CHECKING:
    from ray import ObjectRef


class CheckpointWriter:
    """Writes states to `folder`, and then removes the models that no state needs. `report` receives
    the failures that are survived: `learner.max_failures` in a row."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        learners: RecoveringLearnerGroup,
        models: BestModel,
        report: Callable[[Fault], None],
    ) -> None:
        self._config = config
        self._checkpoints = Checkpoints(folder, config.rapo.keep_checkpoints)
        self._learners = learners
        self._models = models
        self._report = report
        self._writing: Waiting[None] | None = None
        self._failures = 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after a step: a regular one, or one in the place of
        one that failed."""
        return step % self._config.rapo.checkpoint_every == 0 or self._failures > 0

    def write(self, state: TrainingState, groups: SavedGroups, *, beside: bool) -> Waiting[None]:
        """Write the state after the step that has just ended; the checkpoint before must have ended
        (`rest`).

        With `beside` this ends at once, and `look` goes on with it. Otherwise ranks that die
        meanwhile are rebuilt. Raises as `look` does.
        """
        self._learners.prepare_to_save()
        writing = self._checkpoints.write(state, groups, partial(self._learners.save_state, beside=beside))
        if beside:
            self._writing = writing
            self.look()
        else:
            yield from writing
            self._ended()

    def look(self) -> Sequence[ObjectRef]:
        """Go on as far as that takes no wait; the refs that the checkpoint waits for.

        Raises `ResourceError` where the disk is full, and `RoleError` after too many failures.
        """
        if self._writing is None:
            return ()
        try:
            return next(self._writing)
        except StopIteration:
            self._ended()
        except RoleError as error:
            self._writing = None
            self._failures += 1
            if self._failures > self._config.learner.max_failures:
                raise
            action = "the checkpoint before stays, and another is written after the next step"
            self._report(Fault("checkpoint", "", error.kind, str(error), action))
        return ()

    def rest(self) -> Waiting[None]:
        """Wait for the end of the checkpoint that is being written, if there is one."""
        while self._writing is not None:
            if pending := self.look():
                yield pending

    def _ended(self) -> None:
        self._writing, self._failures = None, 0
        self._models.prune(saved.best for saved in self._checkpoints.kept())
