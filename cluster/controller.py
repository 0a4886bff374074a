"""The RAPO loop: draw, roll out, reward, learn, publish. It holds refs, not data.

Groups stream in from the fleet while the learner works, at most `rapo.max_staleness` (eta) steps ahead of it (`cluster.window`).
With eta 0 sampler and learner take turns, and with fixed seeds a run is a function of its configuration.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.reward import RewardScorer
from cluster.files import append_jsonl
from cluster.findings import FINDINGS
from cluster.fleet import Drawn, Fleet, Task
from cluster.images import ImageStore
from cluster.learners import LearnerGroup
from cluster.waiting import wait_each
from cluster.weights import WeightVersion
from cluster.window import Ready, Window
from rapo.batching import BatchSampler
from rapo.config import Config
from rapo.metrics import evaluate_predictions
from rapo.records import ImageRecord
from rapo.watch import Finding, Watch

#: Scoring a step is vectorised arithmetic on a few thousand numbers; more than this means that the actor is gone.
_REWARD_TIMEOUT_S = 300.0
#: How often a wait for groups looks at their time limits.
_POLL_S = 2.0


@dataclass(slots=True)
class Best:
    """The best validation result so far and the folder that holds its model."""

    srcc: float = float("-inf")
    step: int = 0
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop left behind: the selected model's folder and the step it comes from, the steps done, the validation results
    by step, and the shares of time in which rollout workers and learners had nothing to do."""

    folder: Path
    step: int
    steps: int
    validation: list[dict[str, Any]]
    idle: dict[str, float]


class Controller:
    """Runs `config.rapo.steps` steps. `start_dir` is the cold-start model; `out` gets metrics, warnings and checkpoints; `note`
    shows a line to the user; `scorer` is the class of the reward actor."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        learners: LearnerGroup,
        start_dir: Path,
        out: Path,
        note: Callable[[str], None] = lambda text: None,
        scorer: Any = RewardScorer,
    ) -> None:
        self._config = config
        self._note = note
        self._watch = Watch(config.rapo.watch)
        self._fatal = False
        self._fleet = fleet
        self._learners = learners
        self._start_dir = start_dir
        self._out = out
        self._reward: Any = scorer.options(num_cpus=0.5).remote(config)
        self._images = ImageStore(config)
        self._window = Window(0, 0, 0)
        self._drawn: dict[int, Drawn] = {}
        self._best = Best()
        self._publishing: WeightVersion | None = None
        self._validation: list[dict[str, Any]] = []

    def run(
        self,
        train: Sequence[ImageRecord],
        validation: Sequence[ImageRecord],
        progress: Callable[[int, dict[str, float]], None],
    ) -> Outcome:
        settings = self._config.rapo
        sampler = BatchSampler(
            train, settings.images_per_step, seed=self._config.run.seed, mix_datasets=settings.mix_datasets
        )
        self._window = Window(sampler.size, settings.max_staleness, settings.steps)
        self._validate(0, validation, None, progress)
        weights, idle = None, []
        done = 0
        while done < settings.steps and not (self._fatal and done):
            weights, row = self._step(done, sampler)
            done += 1
            idle.append((row["idle_rollout"], row["idle_learner"]))
            append_jsonl(self._out / "metrics.jsonl", row)
            self._heed(self._watch.step(row))
            progress(done, {"reward": row["reward_mean"], "parsed": row["parse_rate"]})
            if done % settings.evaluate_every == 0 or done == settings.steps:
                self._loaded()  # what is measured is the version of this step
                self._validate(done, validation, weights, progress)
        assert weights is not None
        if self._fatal:
            self._note(f"stopped after step {done}, as rapo.watch.on_collapse asks for")
        folder = self._select(done, weights)
        rollout, learner = (sum(column) / len(column) for column in zip(*idle, strict=True))
        return Outcome(folder, self._best.step, done, self._validation, {"rollout": rollout, "learner": learner})

    def _heed(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            append_jsonl(self._out / FINDINGS, finding.row())
            self._note(f"step {finding.step}: {finding.text}")
            self._fatal |= finding.fatal

    def _step(self, step: int, sampler: BatchSampler) -> tuple[WeightVersion, dict[str, Any]]:
        """One optimiser step on one group per record; the weights it made and its metrics."""
        clock, busy = _Clock(), self._fleet.busy_seconds
        dropped = self._window.dropped
        batch = self._collect(step, sampler)
        clock.lap("rollout")
        ranks = self._config.learner.workers
        receipt_ref, *shares = self._reward.score.options(num_returns=1 + ranks).remote(*(d.group for d in batch))
        (scored,) = wait_each(
            [receipt_ref], roles=["reward actor"], timeout_s=_REWARD_TIMEOUT_S, meanwhile=self._meanwhile
        )
        clock.lap("reward")
        images = {d.task.record.uid: d.task.image for d in batch}
        wanted = [{uid: images[uid] for uid in uids} for uids in scored["uids"]]
        metrics = scored["metrics"] | self._learners.step(shares, wanted, self._meanwhile)
        clock.lap("learner")
        weights = self._publish(step + 1)
        clock.lap("weights")
        lags = [step - d.receipt["version"] for d in batch]
        workers = max(1, len(self._fleet))
        return weights, {
            "step": step + 1,
            **metrics,
            "staleness_mean": sum(lags) / len(lags),
            "staleness_worst": max(lags),
            "dropped": self._window.dropped - dropped,
            "idle_learner": 1.0 - min(1.0, metrics["learner_busy_s"] / clock.total),
            "idle_rollout": max(0.0, 1.0 - (self._fleet.busy_seconds - busy) / workers / clock.total),
            "seconds": clock.laps,
        }

    def _collect(self, step: int, sampler: BatchSampler) -> list[Drawn]:
        """The groups of a step, by ticket; what is too old is drawn again."""
        while True:
            for ticket in self._window.sweep(step):
                del self._drawn[ticket]
            batches: dict[int, list[ImageRecord]] = {}
            for ticket in self._window.admit(step):
                number, place = divmod(ticket, sampler.size)
                if number not in batches:
                    batches[number] = sampler.batch(number)
                record = batches[number][place]
                # Only the bytes travel, by ref: a worker may not see the driver's files.
                bare = dataclasses.replace(record, path=None, data=None)
                # Older weights would make it too old by the time that it can be used.
                needs = max(number, step) - self._config.rapo.max_staleness
                self._fleet.submit(Task(ticket, bare, self._images.ref(record), number, needs))
            taken = self._window.take(step)
            if taken is not None:
                return [self._drawn.pop(ready.ticket) for ready in taken]
            self._poll(())

    def _meanwhile(self, refs: Sequence[Any]) -> None:
        """Look after the fleet while `refs` are pending; returns when one is done, or something else happened."""
        self._poll(refs)

    def _poll(self, others: Sequence[Any]) -> None:
        for one in self._fleet.poll(_POLL_S, others):
            self._drawn[one.task.ticket] = one
            record = one.task.record
            self._window.put(Ready(one.task.ticket, one.group, one.receipt["version"], record.dataset))

    def _publish(self, version: int) -> WeightVersion:
        """Publish the learner's weights and have the fleet load them; with eta > 0 both go on beside the next step."""
        self._published()  # the version before
        weights = self._learners.publish(version)
        self._publishing = weights
        self._fleet.load(weights)
        if self._config.rapo.max_staleness == 0:
            self._loaded()
        return weights

    def _published(self) -> None:
        weights, self._publishing = self._publishing, None
        if weights is not None:
            self._learners.published(weights, self._meanwhile)

    def _loaded(self) -> None:
        """Wait until the fleet holds the version that was published last."""
        self._published()
        self._fleet.loaded(self._meanwhile)

    def _validate(
        self,
        step: int,
        records: Sequence[ImageRecord],
        weights: WeightVersion | None,
        progress: Callable[[int, dict[str, float]], None],
    ) -> None:
        """Measure the current weights on the validation images; keep the model where it is the best yet."""
        if not records:
            return
        began = time.perf_counter()
        result = evaluate_predictions(self._fleet.predictions(records), bootstrap=0, seed=0)
        row = {"step": step, "validation": result, "seconds": {"validation": time.perf_counter() - began}}
        append_jsonl(self._out / "metrics.jsonl", row)
        self._validation.append({"step": step, **result})
        self._heed(self._watch.validation(step, result))
        srcc = result["srcc"]
        if srcc is not None:
            progress(step, {"srcc": srcc})
        if self._config.rapo.select == "best" and srcc is not None and srcc > self._best.srcc:
            before = self._best.folder
            self._best = Best(srcc, step, self._start_dir if weights is None else self._save(step, weights))
            if before is not None and before != self._start_dir:
                shutil.rmtree(before, ignore_errors=True)  # the best is kept, not the history of bests

    def _save(self, step: int, weights: WeightVersion) -> Path:
        folder = self._out / "checkpoints" / f"step-{step:06d}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._learners.save_model(folder, self._start_dir, weights)
        return folder

    def _select(self, step: int, last: WeightVersion) -> Path:
        """The folder of the selected model. Without a validation result there is nothing to choose by: the last."""
        if self._config.rapo.select == "best" and self._best.folder is not None:
            return self._best.folder
        self._best.step = step
        return self._save(step, last)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return max(1e-9, sum(self.laps.values()))
