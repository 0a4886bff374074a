"""The loop with all its roles: fleet, learners and reward actor are brought up side by side around
a controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from actors.learner import Learner
from actors.reward import RewardScorer
from actors.rollout import RolloutWorker
from cluster.learner.group import LearnerGroup
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.rollout.fleet import Fleet
from cluster.training.checkpoint import Checkpoint
from cluster.training.controller import Controller, Hooks
from cluster.training.reward_client import RewardClient
from rapo.config import Config


@contextmanager
def training_session(
    config: Config,
    start_dir: Path,
    out: Path,
    *,
    fleet: Fleet | None = None,
    hooks: Hooks | None = None,
    resume: Callable[[RecoveringLearnerGroup], Checkpoint | None] = lambda learners: None,
    worker: Any = RolloutWorker,
    learner: Any = Learner,
    scorer: Any = RewardScorer,
) -> Iterator[Controller]:
    """A controller whose roles are ready on the model of `start_dir`; they end with the block.

    A `fleet` that is given stays, whether it was started or not. `resume` has the ranks go on from
    a state. `worker`, `learner` and `scorer` are the actors' classes.
    """
    hooks = hooks or Hooks()
    with ExitStack() as stack:
        if fleet is None:
            fleet = Fleet(config, worker)
            stack.callback(fleet.close)
        fleet.report = hooks.fault
        stack.callback(fleet.disown)
        learners = RecoveringLearnerGroup(config, lambda: LearnerGroup(config, learner), hooks.fault)
        stack.callback(learners.close)
        rewards = RewardClient(config, scorer, hooks.fault)
        stack.callback(rewards.close)
        fleet.start(start_dir, 0)
        facts = learners.ready(learners.start(start_dir))
        if facts[0]["fallback"] is not None:
            hooks.note(
                f"every completion is trained with a prompt of its own (learner.packing = rows): {facts[0]['fallback']}"
            )
        checkpoint = resume(learners)
        fleet.ready()
        yield Controller(config, fleet, learners, rewards, start_dir, out, hooks, checkpoint)
