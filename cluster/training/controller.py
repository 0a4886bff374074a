"""Controller: the RAPO loop: sample, reward, learn, publish, validate. It holds refs, not data.

- Groups stream in from the fleet while the learner works, at most `rapo.max_staleness` steps ahead
  of it (`cluster.training.staleness`). At 0 sampler and learner take turns, and with fixed seeds a
  run is a function of its configuration.
- `_poll` is the one place that polls the fleet. Waits for learners and reward actor are driven from
  here, so that an error of the fleet never passes through their retries.
- Roles may die: the fleet, `RecoveringLearnerGroup` and `RewardClient` replace them. This process
  may die as well: `CheckpointWriter` writes its state to the disk, beside the steps that follow.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import ray

from actors.messages import RewardReceipt
from cluster.files.alerts import ALERTS
from cluster.files.jsonl import append_jsonl
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.faults import Fault
from cluster.remote.waiting import Waiting, drive
from cluster.remote.weight_source import WeightVersion
from cluster.rollout.autoscale import Autoscaler
from cluster.rollout.fleet import Fleet
from cluster.rollout.scale_requests import ScaleRequests
from cluster.rollout.tasks import RolloutResult, Task
from cluster.training.best_model import BestModel
from cluster.training.checkpoint import Checkpoint, TrainingState, ValidationPoint
from cluster.training.checkpoint_writer import CheckpointWriter
from cluster.training.clock import StepClock
from cluster.training.image_store import ImageStore
from cluster.training.listener import TrainingListener
from cluster.training.metrics_file import METRICS, recorded_rows
from cluster.training.reward_client import RewardClient
from cluster.training.staleness import ReadyGroup, StalenessWindow
from cluster.training.start_check import StartCheck
from cluster.training.status import FleetStatus, TrainingStatus, WindowStatus
from cluster.training.validation import Validation
from rapo.algorithm.alert_kinds import Alert
from rapo.algorithm.alerts import TrainingAlerts
from rapo.algorithm.batch_sampler import BatchSampler
from rapo.config import Config
from rapo.errors import FaultKind, JudgeError, RapoError, RoleError, StoppedError
from rapo.records import ImageRecord, Prediction

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")

LEDGER = "ledger.jsonl"

_POLL_S = 2.0
#: Fetching a group that is there; more than this means that it is not.
_FETCH_S = 30.0
_REFILLS = 3


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The selected model's folder and its step, the steps done, the validation results by step, and
    the shares of time in which rollout workers and learners were idle."""

    folder: Path
    step: int
    steps: int
    validation: list[ValidationPoint]
    idle: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The images that a run trains on, and those that it is validated on. `weights` are the data
    sets' shares of the training batches; without any, sizes are."""

    train: Sequence[ImageRecord]
    validation: Sequence[ImageRecord]
    weights: Mapping[str, float] | None = None


class Controller:
    """Runs `config.rapo.steps` steps, or those after `resume`, whose learner state the ranks hold
    already.

    `start_dir` is the cold-start model; `out` gets metrics, alerts, states and models. See
    `cluster.training.session`.
    """

    def __init__(
        self,
        config: Config,
        data: TrainingData,
        fleet: Fleet,
        learners: RecoveringLearnerGroup,
        rewards: RewardClient,
        start_dir: Path,
        out: Path,
        listener: TrainingListener,
        resume: Checkpoint | None = None,
    ) -> None:
        settings = config.rapo
        self._config = config
        self._data = data
        self._fleet = fleet
        self._learners = learners
        self._rewards = rewards
        self._start_dir, self._out = start_dir, out
        self._listener = listener
        self._resume = resume
        self._alerts, self._check_start = TrainingAlerts(settings.watch), StartCheck(config, start_dir, out)
        self._stopped = False  # by a fatal alert
        self._images = ImageStore(config)
        self._batches = BatchSampler(
            data.train,
            settings.images_per_step,
            seed=config.run.seed,
            mix_datasets=settings.mix_datasets,
            weights=data.weights,
        )
        self._window = StalenessWindow(self._batches.size, settings.max_staleness, settings.steps)
        self._results: dict[int, RolloutResult] = {}
        self._models = BestModel(config, learners, start_dir, out / "checkpoints")
        self._writer = CheckpointWriter(config, out / "state", learners, self._models, listener.fault)
        self._weights: WeightVersion | None = None
        self._publishing: WeightVersion | None = None
        self._validation: list[ValidationPoint] = []
        self._measures = Validation(data.validation, config.image)
        self._requests = ScaleRequests(out)
        self._autoscaler = Autoscaler(config.rollout.autoscale, config.most_workers)
        self.step = 0

    def run(self, stop: Callable[[], bool] = lambda: False) -> TrainingResult:
        """Train to the end. The state is saved where a node is about to go, and where `stop` is
        true, which raises `StoppedError`."""
        settings = self._config.rapo
        if self._resume is None:
            self._validate(None)
        else:
            self._restore(self._resume)
        idle: list[tuple[float, float]] = []
        while self.step < settings.steps and not (self._stopped and self.step):
            idle.append(self._one_step())
            self._autoscale(*idle[-1])
            done = self.step
            if done % settings.evaluate_every == 0 or done == settings.steps:
                self._await_published()  # what is measured is the version of this step
                self._validate(self._weights)
            stopping, going = stop(), self._fleet.newly_draining()
            if done < settings.steps and (stopping or going or self._writer.due(done)):
                self._checkpoint(beside=not (stopping or going))
            if going:
                self._listener.note(f"nodes are about to go: {', '.join(sorted(going))}; the state is saved")
            if stopping and done < settings.steps:
                raise StoppedError(f"stopped after step {done}, as SIGTERM asked; the same command continues")
        if self._stopped:
            self._listener.note(f"stopped after step {self.step}, as rapo.watch.on_collapse asks for")
        self._await_published()
        self._drive(self._writer.rest())
        assert self._weights is not None
        folder, step = self._models.select(self.step, self._weights)
        shares = [sum(column) / len(idle) for column in zip(*idle, strict=True)] if idle else [0.0, 0.0]
        return TrainingResult(folder, step, self.step, self._validation, {"rollout": shares[0], "learner": shares[1]})

    def status(self) -> TrainingStatus:
        window = self._window
        return TrainingStatus(
            step=self.step,
            steps=self._config.rapo.steps,
            version=self._weights.version if self._weights is not None else 0,
            fleet=FleetStatus(self._fleet.wanted, self._fleet.statuses(), self._fleet.waiting),
            learner=self._learners.ranks,
            reward=self._rewards.process,
            window=WindowStatus(len(window.ready), window.running, window.used, window.dropped),
        )

    def _one_step(self) -> tuple[float, float]:
        """One optimiser step on one group per image; the idle shares of rollout workers and
        learners."""
        step = self.step
        clock, busy, dropped = StepClock(), self._fleet.busy_seconds, self._window.dropped
        batch, scored, figures = self._learn(step, clock)
        self._check_start(step, figures)
        self.step += 1
        self._publish(self.step)
        clock.lap("weights")
        staleness = [step - result.receipt.version for result in batch]
        idle_learner = 1.0 - min(1.0, figures["learner_busy_s"] / clock.total)
        busy = (self._fleet.busy_seconds - busy) / max(1, len(self._fleet))
        idle_rollout = max(0.0, 1.0 - busy / clock.total)
        row = {
            "step": self.step,
            **scored.metrics,
            **figures,
            "staleness_mean": sum(staleness) / len(staleness),
            "staleness_worst": max(staleness),
            "dropped": self._window.dropped - dropped,
            "workers": len(self._fleet),
            "idle_learner": idle_learner,
            "idle_rollout": idle_rollout,
            "seconds": clock.laps,
        }
        append_jsonl(self._out / METRICS, row)
        append_jsonl(self._out / LEDGER, {"step": self.step, "used": [result.task.ticket for result in batch]})
        self._record_alerts(self._alerts.step(row))
        self._listener.step(row)
        shown = {"reward": scored.metrics["reward_mean"], "parsed": scored.metrics["parse_rate"]}
        self._listener.progress(self.step, shown)
        self._listener.changed()
        return idle_rollout, idle_learner

    def _learn(self, step: int, clock: StepClock) -> tuple[list[RolloutResult], RewardReceipt, dict[str, float]]:
        """Collect, score and train. Groups that turn out to be lost are sampled again."""
        for refill in range(_REFILLS + 1):
            batch = self._collect(step)
            clock.lap("rollout")
            try:
                scored, shares = self._drive(self._rewards.score(batch))
                clock.lap("reward")
                images = {result.task.record.uid: result.task.image for result in batch}
                needed = [{uid: images[uid] for uid in uids} for uids in scored.uids]
                figures = self._drive(self._learners.step(shares, needed))
                clock.lap("learner")
                return batch, scored, figures
            except RoleError as error:
                if error.kind is not FaultKind.DATA_LOST or refill == _REFILLS:
                    raise
                self._refill(batch, error)
            except JudgeError as error:
                self._refill(batch, error)  # the state holds the groups, so that none is lost
                if step:
                    self._checkpoint(beside=False)
                raise
        raise AssertionError

    def _collect(self, step: int) -> list[RolloutResult]:
        """The groups of a step, by ticket; what is too old is sampled again."""
        while True:
            for ticket in self._window.drop_stale(step):
                del self._results[ticket]
            batches: dict[int, list[ImageRecord]] = {}
            for ticket in self._window.admit(step):
                number, place = divmod(ticket, self._window.batch)
                if number not in batches:
                    batches[number] = self._batches.batch(number)
                self._fleet.submit(self._task(ticket, batches[number][place], step))
            taken = self._window.take(step)
            if taken is not None:
                return [self._results.pop(ready.ticket) for ready in taken]
            self._let_sample()
            self._poll(())

    def _task(self, ticket: int, record: ImageRecord, step: int) -> Task:
        number = ticket // self._window.batch
        # Only the bytes travel, by ref: a worker may not see the driver's files.
        bare = dataclasses.replace(record, path=None, data=None)
        # Older weights would make it too old by the time that it can be used.
        min_version = max(number, step) - self._config.rapo.max_staleness
        return Task(ticket, bare, self._images.ref(record), number, min_version)

    def _refill(self, batch: Sequence[RolloutResult], error: RapoError) -> None:
        """Of a batch that could not be used, keep the groups that are there and have the others
        sampled again."""
        for result in batch:
            ticket = result.task.ticket
            try:
                ray.get(result.group, timeout=_FETCH_S)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                self._window.requeue(ticket)
                cause = f"{result.task.what}: {error}"
                self._listener.fault(Fault("group", "", FaultKind.DATA_LOST, cause, "sampled again"))
            else:
                self._results[ticket] = result
                self._window.give_back(_ready(result))

    def _drive(self, waiting: Waiting[T]) -> T:
        """The result of a wait for another role; the fleet is polled meanwhile."""
        return drive(waiting, self._poll)

    def _poll(self, others: Sequence[ObjectRef]) -> None:
        """Poll the fleet until a group comes, one of `others` is done, or a moment has passed."""
        for result in self._fleet.poll(_POLL_S, others):
            self._results[result.task.ticket] = result
            self._listener.sampled(result)
            self._window.put(_ready(result))
        self._writer.look()
        asked = self._requests.take()
        if asked is not None and asked != self._fleet.wanted:
            self._resize(asked, "asked for")

    def _publish(self, version: int) -> None:
        """Publish the learner's weights and have the fleet load them; with `rapo.max_staleness` > 0
        both go on beside the next step."""
        self._await_published()  # the version before
        self._weights = self._publishing = self._learners.publish(version, self._fleet.receivers())
        self._fleet.load(self._weights)

    def _await_published(self) -> None:
        weights, self._publishing = self._publishing, None
        if weights is None:
            return
        held = self._drive(self._learners.published(weights))
        if held is not weights:  # the ranks died while they published
            self._weights = held
            self._fleet.load(held)

    def _let_sample(self) -> None:
        """Publish anew what workers could not pull, if it is still the newest, and give them their
        turn. While a step is trained the next version comes by itself."""
        version = self._fleet.take_lost_version()
        if version is not None and self._weights is not None and self._weights.version == version:
            self._publishing = None
            self._weights = self._drive(self._learners.republish(version))
            self._fleet.load(self._weights)
        self._drive(self._learners.hand_over())

    def _validate(self, weights: WeightVersion | None) -> None:
        """Measure the current weights on the validation images; keep the model where it is the best
        yet."""
        if not self._data.validation:
            return
        began = time.perf_counter()
        result = self._measures.measure(self._predict(self._data.validation))
        row = {"step": self.step, "validation": result, "seconds": {"validation": time.perf_counter() - began}}
        append_jsonl(self._out / METRICS, row)
        self._validation.append({"step": self.step, **result})
        self._record_alerts(self._alerts.validation(self.step, result))
        self._listener.step(row)
        if result["srcc"] is not None:
            self._listener.progress(self.step, {"srcc": result["srcc"]})
            self._models.consider(result["srcc"], self.step, weights)

    def _predict(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        self._fleet.submit_predictions(records)
        while (predictions := self._fleet.take_predictions()) is None:
            self._let_sample()
            self._poll(())
        return predictions

    def _record_alerts(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            append_jsonl(self._out / ALERTS, alert.row())
            self._listener.note(f"step {alert.step}: {alert.text}")
            self._stopped |= alert.fatal

    def _autoscale(self, idle_rollout: float, idle_learner: float) -> None:
        if not self._config.rollout.autoscale.enabled:
            return
        wanted = self._autoscaler.decide(
            time.monotonic(), self._fleet.wanted, len(self._fleet), idle_rollout, idle_learner
        )
        if wanted != self._fleet.wanted:
            self._resize(wanted, f"idle: rollout {idle_rollout:.0%}, learner {idle_learner:.0%}")

    def _resize(self, workers: int, reason: str) -> None:
        before = self._fleet.wanted
        wanted = self._fleet.resize(workers)
        self._listener.note(f"rollout workers: {before} -> {wanted} ({reason})")
        if wanted != workers:
            self._listener.note(f"{workers} were asked for; the configuration allows {self._config.most_workers}")
        self._listener.changed()

    def _checkpoint(self, *, beside: bool) -> None:
        """Write the run's state after the present step, beside those that follow or before them."""
        self._drive(self._writer.rest())
        groups = {
            ready.ticket: (ray.get(ready.group, timeout=_FETCH_S), self._results[ready.ticket].receipt)
            for ready in self._window.ready
        }
        ranks = self._config.learner.workers, self._config.learner.zero_stage
        state = TrainingState(self.step, self._window.state(), self._validation, self._models.state(), *ranks)
        self._drive(self._writer.write(state, groups, beside=beside))

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint: groups that were ready are ready again, those in flight are
        sampled again, and the alerts know what they had learned from the steps before."""
        self.step = checkpoint.step
        refs = {}
        for ticket, (group, receipt) in checkpoint.groups.items():
            number, place = divmod(ticket, self._window.batch)
            refs[ticket] = ray.put(group)
            task = self._task(ticket, self._batches.batch(number)[place], self.step)
            self._results[ticket] = RolloutResult(task, refs[ticket], receipt)
        self._window.restore(checkpoint.state.window, refs)
        self._validation = checkpoint.state.validation
        self._models.restore(checkpoint.state.best)
        # They were reported when they arose; a fatal one stops this run where it stopped that one.
        self._stopped = any(alert.fatal for alert in self._alerts.replay(recorded_rows(self._out, self.step)))
        self._publish(self.step)


def _ready(result: RolloutResult) -> ReadyGroup:
    task = result.task
    return ReadyGroup(task.ticket, result.group, result.receipt.version, task.record.dataset)
