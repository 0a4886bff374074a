"""The RAPO stage: fleet and learners are brought up side by side, then the controller runs the
loop.

Where an earlier attempt in the same folder left a state, the loop goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cluster.files.alerts import ALERTS
from cluster.files.jsonl import append_jsonl
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.monitoring.monitor import RunMonitor
from cluster.monitoring.run_state import RunStateWriter, journal_to
from cluster.pipeline.results import RapoResult
from cluster.remote.faults import FAULTS, Fault
from cluster.rollout.fleet import Fleet
from cluster.training.checkpoint import Checkpoint, Checkpoints, cut_back
from cluster.training.controller import LEDGER, METRICS, Hooks, TrainingResult
from cluster.training.session import training_session
from rapo.config import Config
from rapo.datasets import Dataset
from rapo.errors import RoleError
from rapo.policy.state import to_universal

#: How often a run goes back to the same checkpoint because the learner's state was lost, before it
#: ends.
_RESTARTS = 3


def train_rapo(
    config: Config,
    dataset: Dataset,
    start_dir: Path,
    out: Path,
    fleet: Fleet,
    progress: Callable[[int, dict[str, float]], None],
    note: Callable[[str], None],
) -> RapoResult:
    """Train from the model of `start_dir`; metrics, states and models go to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(out / "state", config.rapo.keep_checkpoints)
    in_vain, reached = 0, -1
    while True:
        try:
            outcome = _train(config, dataset, start_dir, out, checkpoints, fleet, progress, note)
            break
        except RoleError as error:
            in_vain = 0 if checkpoints.newest > reached else in_vain + 1
            reached = checkpoints.newest
            if error.kind != "state lost" or in_vain == _RESTARTS:
                raise
            note(f"{error}; the run goes back to its last checkpoint")
    busier = min(outcome.idle, key=lambda side: outcome.idle[side])
    shares = ", ".join(f"{side} {share:.0%}" for side, share in outcome.idle.items())
    note(f"idle: {shares}; the {busier} side is what the other waits for")
    return RapoResult(
        model=str(outcome.folder),
        step=outcome.step,
        steps=outcome.steps,
        validation=outcome.validation,
        idle=outcome.idle,
    )


def _train(
    config: Config,
    dataset: Dataset,
    start_dir: Path,
    out: Path,
    checkpoints: Checkpoints,
    fleet: Fleet,
    progress: Callable[[int, dict[str, float]], None],
    note: Callable[[str], None],
) -> TrainingResult:
    checkpoint = _begin(checkpoints, out, note)
    observer = RunMonitor(config, out.parent, 0 if checkpoint is None else checkpoint.step, note)
    live = RunStateWriter(out, observer.state)

    def survived(fault: Fault) -> None:
        append_jsonl(out / FAULTS, {"step": live.step, **fault.row()})
        observer.fault(fault)
        note(str(fault))

    def resume(learners: RecoveringLearnerGroup) -> Checkpoint | None:
        if checkpoint is not None:
            _take_over(config, learners, checkpoint, checkpoints)
        return checkpoint

    hooks = Hooks(
        note=note, progress=progress, fault=survived, drawn=observer.drawn, step=observer.step, state=live.write
    )
    with (
        observer,
        live,
        training_session(config, start_dir, out, fleet=fleet, hooks=hooks, resume=resume) as controller,
    ):
        live.follow(controller)
        fleet.journal = journal_to(out, live.write, observer.journal)
        return controller.run(dataset.split("train"), dataset.split("validation"))


def _begin(checkpoints: Checkpoints, out: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The state to go on from. Without one the stage starts over; what an unfinished attempt wrote
    is removed."""
    found = checkpoints.latest(note)
    if found is None:
        for name in (METRICS, LEDGER, ALERTS):  # what was survived stays written
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return None
    for name in (METRICS, LEDGER, ALERTS):
        cut_back(out / name, found.step)
    note(f"goes on after step {found.step}")
    return found


def _take_over(
    config: Config, learners: RecoveringLearnerGroup, checkpoint: Checkpoint, checkpoints: Checkpoints
) -> None:
    """Have the ranks go on from a state, which is converted where there are more or fewer of them
    than wrote it."""
    ranks = config.learner.workers
    if checkpoint.state["ranks"] == ranks:
        learners.load_state(checkpoint.learner, universal=False)
        return
    converted = checkpoints.converted(checkpoint)
    to_universal(checkpoint.learner, converted, timeout_s=config.learner.step_timeout_s)
    learners.load_state(converted, universal=True)
