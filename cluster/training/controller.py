"""The RAPO loop: draw, roll out, reward, learn, publish. It holds refs, not data.

Groups stream in from the fleet while the learner works, at most `rapo.max_staleness` (eta) steps
ahead of it (`cluster.training.staleness`). With eta 0 sampler and learner take turns, and with
fixed seeds a run is a function of its configuration.

Whatever runs elsewhere may die: the fleet, `RecoveringLearnerGroup` and `RewardClient` replace it.
What this process knows is in a checkpoint every `rapo.checkpoint_every` steps, so that it may die
as well.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.files.alerts import ALERTS
from cluster.files.jsonl import append_jsonl
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.faults import Fault, Report
from cluster.remote.weights import WeightVersion
from cluster.rollout.autoscale import Autoscaler
from cluster.rollout.fleet import Fleet
from cluster.rollout.scale_requests import ScaleRequests
from cluster.rollout.tasks import RolloutResult, Task
from cluster.training.best_model import BestModel
from cluster.training.checkpoint import Checkpoint, Checkpoints
from cluster.training.image_store import ImageStore
from cluster.training.reward_client import RewardClient
from cluster.training.staleness import Ready, StalenessWindow
from rapo.algorithm.alerts import Alert, TrainingAlerts
from rapo.algorithm.batch_sampler import BatchSampler
from rapo.config import Config
from rapo.errors import RoleError
from rapo.metrics import evaluate_predictions
from rapo.records import ImageRecord

METRICS, LEDGER = "metrics.jsonl", "ledger.jsonl"

#: How often a wait for groups looks around.
_POLL_S = 2.0
#: Fetching a group that is there; more than this means that it is not.
_FETCH_S = 30.0
_REFILLS = 3


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What the loop left behind: the selected model's folder and the step it comes from, the steps
    done, the validation results by step, and the shares of time in which rollout workers and
    learners had nothing to do."""

    folder: Path
    step: int
    steps: int
    validation: list[dict[str, Any]]
    idle: dict[str, float]


@dataclass(slots=True)
class Hooks:
    """Who is told what: `note` a line for the user, `progress` a step and some figures, `fault`
    what was survived, `drawn` each group that came, `step` each step's row, `state` that something
    is new about the run (`Controller.status`)."""

    note: Callable[[str], None] = lambda text: None
    progress: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    fault: Report = lambda fault: None
    drawn: Callable[[RolloutResult], None] = lambda drawn: None
    step: Callable[[dict[str, Any]], None] = lambda row: None
    state: Callable[[], None] = lambda: None


class Controller:
    """Runs `config.rapo.steps` steps, or those after `resume`, whose learner state the ranks hold
    already.

    `start_dir` is the cold-start model; `out` gets metrics, warnings, states and models. See
    `cluster.training.session`.
    """

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        learners: RecoveringLearnerGroup,
        rewards: RewardClient,
        start_dir: Path,
        out: Path,
        hooks: Hooks,
        resume: Checkpoint | None = None,
    ) -> None:
        self._config = config
        self._hooks = hooks
        self._resume = resume
        self._watch = TrainingAlerts(config.rapo.watch)
        self._fatal = False
        self._fleet = fleet
        self._learners = learners
        self._rewards = rewards
        self._out = out
        self._images = ImageStore(config)
        self._window = StalenessWindow(0, 0, 0)
        self._drawn: dict[int, RolloutResult] = {}
        self._models = BestModel(config, learners, start_dir, out / "checkpoints")
        self._checkpoints = Checkpoints(out / "state", config.rapo.keep_checkpoints)
        self._weights: WeightVersion | None = None
        self._publishing: WeightVersion | None = None
        self._lost: int | None = None
        self._validation: list[dict[str, Any]] = []
        self._requests = ScaleRequests(out)
        self._autoscaler = Autoscaler(config.rollout.autoscale, config.rollout.most)
        self._sampler: BatchSampler | None = None
        self.step = 0
        fleet.lost = self._weights_lost

    def run(self, train: Sequence[ImageRecord], validation: Sequence[ImageRecord]) -> TrainingResult:
        settings = self._config.rapo
        sampler = BatchSampler(
            train, settings.images_per_step, seed=self._config.run.seed, mix_datasets=settings.mix_datasets
        )
        self._sampler = sampler
        self._window = StalenessWindow(sampler.size, settings.max_staleness, settings.steps)
        if self._resume is None:
            self._validate(validation, None)
        else:
            self._restore(self._resume, sampler)
        idle = []
        while self.step < settings.steps and not (self._fatal and self.step):
            row = self._one_step(sampler)
            idle.append((row["idle_rollout"], row["idle_learner"]))
            self._scale(row)
            done = self.step
            if done % settings.evaluate_every == 0 or done == settings.steps:
                self._published()  # what is measured is the version of this step
                self._validate(validation, self._weights)
            if done % settings.checkpoint_every == 0 and done < settings.steps:
                self._checkpoint()
        if self._fatal:
            self._hooks.note(f"stopped after step {self.step}, as rapo.watch.on_collapse asks for")
        self._published()
        assert self._weights is not None
        folder, step = self._models.select(self.step, self._weights)
        shares = [sum(column) / len(idle) for column in zip(*idle, strict=True)] if idle else [0.0, 0.0]
        return TrainingResult(folder, step, self.step, self._validation, {"rollout": shares[0], "learner": shares[1]})

    def status(self) -> dict[str, Any]:
        """What `rapo status` shows of a live run."""
        window = self._window
        return {
            "step": self.step,
            "steps": self._config.rapo.steps,
            "version": self._weights.version if self._weights is not None else 0,
            "fleet": {"wanted": self._fleet.wanted, "workers": self._fleet.rows(), "waiting": self._fleet.waiting},
            "learner": self._learners.facts,
            "reward": self._rewards.facts,
            "window": {
                "ready": len(window.ready),
                "running": window.running,
                "used": window.used,
                "dropped": window.dropped,
            },
        }

    # One step.

    def _one_step(self, sampler: BatchSampler) -> dict[str, Any]:
        """One optimiser step on one group per record; its metrics."""
        step = self.step
        clock, busy = _Clock(), self._fleet.busy_seconds
        dropped = self._window.dropped
        batch, scored, figures = self._learn(step, sampler, clock)
        self.step += 1
        self._publish(self.step)
        clock.lap("weights")
        lags = [step - d.receipt["version"] for d in batch]
        workers = max(1, len(self._fleet))
        row = {
            "step": self.step,
            **scored,
            **figures,
            "staleness_mean": sum(lags) / len(lags),
            "staleness_worst": max(lags),
            "dropped": self._window.dropped - dropped,
            "workers": len(self._fleet),
            "idle_learner": 1.0 - min(1.0, figures["learner_busy_s"] / clock.total),
            "idle_rollout": max(0.0, 1.0 - (self._fleet.busy_seconds - busy) / workers / clock.total),
            "seconds": clock.laps,
        }
        append_jsonl(self._out / METRICS, row)
        append_jsonl(self._out / LEDGER, {"step": self.step, "used": [d.task.ticket for d in batch]})
        self._record_alerts(self._watch.step(row))
        self._hooks.step(row)
        self._hooks.progress(self.step, {"reward": row["reward_mean"], "parsed": row["parse_rate"]})
        self._hooks.state()
        return row

    def _learn(
        self, step: int, sampler: BatchSampler, clock: _Clock
    ) -> tuple[list[RolloutResult], dict[str, Any], dict[str, float]]:
        """Collect, score and train; where groups turn out to be lost, their like is drawn again."""
        for refill in range(_REFILLS + 1):
            batch = self._collect(step, sampler)
            clock.lap("rollout")
            try:
                scored, shares = self._rewards.score([d.group for d in batch], self._meanwhile)
                clock.lap("reward")
                images = {d.task.record.uid: d.task.image for d in batch}
                wanted = [{uid: images[uid] for uid in uids} for uids in scored["uids"]]
                figures = self._learners.step(shares, wanted, self._meanwhile)
                clock.lap("learner")
                return batch, scored["metrics"], figures
            except RoleError as error:
                if error.kind != "data lost" or refill == _REFILLS:
                    raise
                self._refill(batch, error)
        raise AssertionError

    def _collect(self, step: int, sampler: BatchSampler) -> list[RolloutResult]:
        """The groups of a step, by ticket; what is too old is drawn again."""
        while True:
            for ticket in self._window.drop_stale(step):
                del self._drawn[ticket]
            batches: dict[int, list[ImageRecord]] = {}
            for ticket in self._window.admit(step):
                number, place = divmod(ticket, sampler.size)
                if number not in batches:
                    batches[number] = sampler.batch(number)
                self._fleet.submit(self._task(ticket, batches[number][place], step))
            taken = self._window.take(step)
            if taken is not None:
                return [self._drawn.pop(ready.ticket) for ready in taken]
            self._republish()
            self._poll(())

    def _task(self, ticket: int, record: ImageRecord, step: int) -> Task:
        number = ticket // self._window.batch
        # Only the bytes travel, by ref: a worker may not see the driver's files.
        bare = dataclasses.replace(record, path=None, data=None)
        # Older weights would make it too old by the time that it can be used.
        needs = max(number, step) - self._config.rapo.max_staleness
        return Task(ticket, bare, self._images.ref(record), number, needs)

    def _refill(self, batch: Sequence[RolloutResult], error: RoleError) -> None:
        """Of a batch that could not be used, keep the groups that are there and have the others
        drawn again."""
        for one in batch:
            ticket = one.task.ticket
            try:
                ray.get(one.group, timeout=_FETCH_S)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                self._window.requeue(ticket)
                self._hooks.fault(Fault("group", "", error.kind, f"{one.task.what}: {error}", "drawn again"))
            else:
                self._drawn[ticket] = one
                self._window.give_back(Ready(ticket, one.group, one.receipt["version"], one.task.record.dataset))

    def _meanwhile(self, refs: Sequence[Any]) -> None:
        """Look after the fleet while `refs` are pending; returns when one is done, or something
        else happened."""
        self._poll(refs)

    def _poll(self, others: Sequence[Any]) -> None:
        for one in self._fleet.poll(_POLL_S, others):
            self._drawn[one.task.ticket] = one
            self._hooks.drawn(one)
            record = one.task.record
            self._window.put(Ready(one.task.ticket, one.group, one.receipt["version"], record.dataset))
        asked = self._requests.take()
        if asked is not None and asked != self._fleet.wanted:
            self._resize(asked, "asked for")

    # Weights.

    def _publish(self, version: int) -> None:
        """Publish the learner's weights and have the fleet load them; with eta > 0 both go on
        beside the next step."""
        self._published()  # the version before
        self._weights = self._publishing = self._learners.publish(version)
        self._fleet.load(self._weights)

    def _published(self) -> None:
        weights, self._publishing = self._publishing, None
        if weights is None:
            return
        held = self._learners.published(weights, self._meanwhile)
        if held is not weights:  # the ranks died while they published
            self._weights = held
            self._fleet.load(held)
            self._lost = None

    def _weights_lost(self, version: int) -> bool:
        """A worker could not pull a version: it was damaged, or lost with whoever published it.
        Told in the midst of the fleet's work, so that it is only noted here; the worker waits for
        the next."""
        self._lost = version
        return True

    def _republish(self) -> None:
        """Publish anew what workers could not pull, if it is still the newest; while a step is
        trained the next one comes by itself."""
        version, self._lost = self._lost, None
        if version is not None and self._weights is not None and self._weights.version == version:
            self._publishing = None
            self._weights = self._learners.publish_again(version, self._meanwhile)
            self._fleet.load(self._weights)
            self._lost = None  # what was told meanwhile was of the old one

    # Validation, scaling, state.

    def _validate(self, records: Sequence[ImageRecord], weights: WeightVersion | None) -> None:
        """Measure the current weights on the validation images; keep the model where it is the best
        yet."""
        if not records:
            return
        began = time.perf_counter()
        result = evaluate_predictions(self._fleet.predictions(records, self._republish), bootstrap=0, seed=0)
        row = {"step": self.step, "validation": result, "seconds": {"validation": time.perf_counter() - began}}
        append_jsonl(self._out / METRICS, row)
        self._validation.append({"step": self.step, **result})
        self._record_alerts(self._watch.validation(self.step, result))
        self._hooks.step(row)
        if result["srcc"] is not None:
            self._hooks.progress(self.step, {"srcc": result["srcc"]})
            self._models.consider(result["srcc"], self.step, weights)

    def _record_alerts(self, findings: Sequence[Alert]) -> None:
        for finding in findings:
            append_jsonl(self._out / ALERTS, finding.row())
            self._hooks.note(f"step {finding.step}: {finding.text}")
            self._fatal |= finding.fatal

    def _scale(self, row: dict[str, Any]) -> None:
        if not self._config.rollout.autoscale.enabled:
            return
        wanted = self._autoscaler.decide(
            time.monotonic(), self._fleet.wanted, len(self._fleet), row["idle_rollout"], row["idle_learner"]
        )
        if wanted != self._fleet.wanted:
            reason = f"idle: rollout {row['idle_rollout']:.0%}, learner {row['idle_learner']:.0%}"
            self._resize(wanted, reason)

    def _resize(self, workers: int, reason: str) -> None:
        before = self._fleet.wanted
        wanted = self._fleet.resize(workers)
        self._hooks.note(f"rollout workers: {before} -> {wanted} ({reason})")
        if wanted != workers:
            self._hooks.note(f"{workers} were asked for; rollout.max_workers allows {self._config.rollout.most}")
        self._hooks.state()

    def _checkpoint(self) -> None:
        """Write the run's state after the present step."""
        self._published()
        groups = {
            ready.ticket: (ray.get(ready.group, timeout=_FETCH_S), self._drawn[ready.ticket].receipt)
            for ready in self._window.ready
        }
        state = {
            "window": self._window.state(),
            "validation": self._validation,
            "best": self._models.state(),
            "ranks": self._config.learner.workers,
        }
        self._checkpoints.write(self.step, state, groups, self._learners.save_state)
        self._models.prune(saved["best"] for saved in self._checkpoints.kept())

    def _restore(self, checkpoint: Checkpoint, sampler: BatchSampler) -> None:
        """Go on from a checkpoint: what was ready is ready again, what was under way is drawn
        again."""
        self.step = checkpoint.step
        refs = {}
        for ticket, (group, receipt) in checkpoint.groups.items():
            number, place = divmod(ticket, sampler.size)
            refs[ticket] = ray.put(group)
            task = self._task(ticket, sampler.batch(number)[place], self.step)
            self._drawn[ticket] = RolloutResult(task, refs[ticket], receipt)
        self._window.restore(checkpoint.state["window"], refs)
        self._validation = checkpoint.state["validation"]
        self._models.restore(checkpoint.state["best"])
        self._publish(self.step)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return max(1e-9, sum(self.laps.values()))
