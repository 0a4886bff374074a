"""Training session: fleet, learners and reward actor, started side by side around a controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.learner import Learner
from actors.reward import RewardScorer
from actors.rollout import RolloutWorker
from cluster.learner.colocated import ColocatedLearners
from cluster.learner.group import LearnerGroup
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.actors import Launch, Launcher
from cluster.remote.needs import training_needs
from cluster.remote.waiting import finish
from cluster.rollout.fleet import Fleet
from cluster.training.checkpoint import Checkpoint
from cluster.training.controller import Controller, TrainingData
from cluster.training.listener import TrainingListener
from cluster.training.reward_client import RewardClient
from rapo.config import Config

_WORKER, _LEARNER, _SCORER = Launcher(RolloutWorker), Launcher(Learner), Launcher(RewardScorer)


@dataclass(frozen=True, slots=True)
class Launchers:
    """What starts the actors of each role."""

    worker: Launch = _WORKER
    learner: Launch = _LEARNER
    scorer: Launch = _SCORER


@contextmanager
def training_session(
    config: Config,
    data: TrainingData,
    start_dir: Path,
    out: Path,
    *,
    fleet: Fleet | None = None,
    listener: TrainingListener | None = None,
    resume: Callable[[RecoveringLearnerGroup], Checkpoint | None] = lambda learners: None,
    launchers: Launchers = Launchers(),
    where: Callable[[Path], Path] | None = None,
) -> Iterator[Controller]:
    """A controller whose roles are ready on the model of `start_dir`; they end with the block.

    A `fleet` that is given stays, whether it was started or not; it reports to the listener of its
    own. `resume` has the ranks go on from a state. `where` is for nodes that do not see the run's
    folder (`LearnerGroup`).
    """
    listener = listener or TrainingListener()
    with ExitStack() as stack:
        if fleet is None:
            fleet = Fleet(config, launchers.worker, listener)
            stack.callback(fleet.close)
        else:
            stack.callback(fleet.wake)
        stack.callback(fleet.forget)
        stack.enter_context(fleet.beside(training_needs(config)))
        learners = _learners(config, fleet, launchers.learner, listener, where)
        stack.callback(learners.close)
        rewards = RewardClient(config, out, launchers.scorer, listener.fault)
        stack.callback(rewards.close)
        fleet.start(start_dir, 0)
        ranks = finish(learners.ready(learners.start(start_dir)))
        if ranks[0].packing_fallback is not None:
            rewards.rows = True
            listener.note(
                "every completion is trained with a prompt of its own (learner.packing = rows): "
                f"{ranks[0].packing_fallback}"
            )
        checkpoint = resume(learners)
        finish(learners.hand_over())
        fleet.ready()
        yield Controller(config, data, fleet, learners, rewards, start_dir, out, listener, checkpoint)


def _learners(
    config: Config,
    fleet: Fleet,
    launch: Launch,
    listener: TrainingListener,
    where: Callable[[Path], Path] | None,
) -> RecoveringLearnerGroup:
    """The learner ranks, beside the workers of `fleet` or on their GPUs, where they start first."""
    room = fleet.room

    def make() -> LearnerGroup:
        return LearnerGroup(config, launch, room, where)

    if room is None:
        return RecoveringLearnerGroup(config, make, listener.fault)
    fleet.sleep()
    return ColocatedLearners(config, make, fleet, listener.fault)
