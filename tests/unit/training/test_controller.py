"""The controller on plain objects: no Ray, no engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes import as_ref

from actors.messages import GroupReceipt, RewardReceipt
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.learner.snapshot import Snapshot
from cluster.remote import waiting
from cluster.remote.faults import Fault
from cluster.remote.waiting import Waiting
from cluster.remote.weight_source import Receivers, WeightVersion
from cluster.rollout.tasks import RolloutResult, Task
from cluster.training import controller as module
from cluster.training import image_store
from cluster.training.checkpoint import Checkpoints
from cluster.training.controller import Controller, TrainingData, TrainingResult
from cluster.training.listener import TrainingListener
from rapo.config import Config, load_config
from rapo.errors import JudgeError, ModelError, RoleError, StoppedError
from rapo.records import ImageRecord
from rapo.util.file_manifest import Entries, entries_of

STEPS = 100
SETTINGS = (
    f"rapo.steps={STEPS}",
    "rapo.images_per_step=2",
    "rapo.max_staleness=0",
    "rapo.checkpoint_every=20",
    "rapo.keep_checkpoints=9",
    "rapo.select=last",
    "rapo.watch.on_collapse=stop",
)
#: The entropy of the policy after each step: it falls slowly, so that only who knows where it began
#: sees how far it has fallen.
ENTROPY = [2.0 * 0.96**step for step in range(STEPS + 1)]


class Fleet:
    """Samples at once what is asked for."""

    def __init__(self) -> None:
        self.wanted, self.waiting, self.busy_seconds = 1, 0, 0.0
        self.error: Exception | None = None
        self.polls = 0
        self.draining: list[str] = []
        self._results: list[RolloutResult] = []

    def __len__(self) -> int:
        return 1

    def receivers(self) -> Receivers | None:
        return None

    def newly_draining(self) -> frozenset[str]:
        hosts, self.draining = frozenset(self.draining), []
        return hosts

    def statuses(self) -> list[Any]:
        return []

    def submit(self, task: Task) -> None:
        receipt = GroupReceipt(task.step, tokens=8, seconds=0.1, busy_seconds=0.1, worker="rollout-0")
        self._results.append(RolloutResult(task, as_ref(f"group {task.ticket}"), receipt))

    def poll(self, timeout_s: float, others: Any = ()) -> list[RolloutResult]:
        self.polls += 1
        if self.error is not None:
            raise self.error
        results, self._results = self._results, []
        return results

    def load(self, weights: WeightVersion) -> None:
        return None

    def take_lost_version(self) -> int | None:
        return None


class Rewards:
    process = None

    def score(self, batch: Any) -> Waiting[tuple[RewardReceipt, list[Any]]]:
        yield []
        return RewardReceipt({"reward_mean": 1.0, "parse_rate": 1.0}, ((),)), [None]


class Group:
    """A learner group that counts its steps."""

    made = 0
    #: How often the write of a state is looked at before it ends, and how the first ones end.
    looks = 1
    failures: ClassVar[list[Exception | None]] = []
    #: The step of each state that was written, and the step that was done by then.
    written: ClassVar[list[tuple[int, int]]] = []

    def __init__(self) -> None:
        Group.made += 1
        self.ranks: list[Any] = []
        self.step_done = 0

    def step(self, shares: Any, images: Any) -> Waiting[dict[str, float]]:
        yield [as_ref("a rank's step")]
        self.step_done += 1
        figures = {"loss": 0.1, "grad_norm": 1.0, "entropy": ENTROPY[self.step_done]}
        return figures | {"learner_busy_s": 0.1, "kl": 0.0, "mismatch_kl": 0.0}

    def states(self) -> list[Any]:
        return [(as_ref("a receipt"), self.step_done)]

    def copies(self, states: Any) -> list[Any]:
        return []

    def load_state(self, folder: Path, *, universal: bool = False) -> Waiting[int]:
        yield []
        self.step_done = int((folder / "steps").read_text())
        return self.step_done

    def write_state(self, folder: Path, states: Any) -> Waiting[Entries]:
        folder.mkdir()
        (folder / "steps").write_text(str(states[0][1]))
        for _ in range(Group.looks):
            yield [as_ref("a rank's file")]
        error = Group.failures.pop(0) if Group.failures else None
        if error is not None:
            raise error
        Group.written.append((states[0][1], self.step_done))
        return entries_of(folder.parent / "learner", [folder / "steps"])

    def publish(self, version: int, receivers: Receivers | None, *, beside: bool = True) -> WeightVersion:
        return WeightVersion(version, (as_ref(),), ())

    def published(self, weights: WeightVersion) -> Waiting[None]:
        yield []

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> Waiting[None]:
        yield []

    def close(self) -> None:
        return None


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store.ray, "put", lambda value: "image")
    monkeypatch.setattr(image_store, "own_store_bytes", lambda: 2**29)
    monkeypatch.setattr(module.ray, "get", lambda ref, timeout: ref)
    monkeypatch.setattr(waiting.ray, "wait", lambda refs, **limits: (refs, []))
    monkeypatch.setattr(Snapshot, "readable", lambda snapshot: snapshot.states)
    for name, value in (("looks", 1), ("failures", []), ("written", [])):
        monkeypatch.setattr(Group, name, value)


def records(count: int) -> list[ImageRecord]:
    return [ImageRecord(f"r/{i}", "d", "train", 0.5, 0.5, (0.0, 1.0), data=b"image") for i in range(count)]


def started(
    out: Path,
    fleet: Fleet,
    *,
    resume_at: int | None = None,
    faults: list[Fault] | None = None,
    config: Config | None = None,
) -> Controller:
    config = config or load_config(None, SETTINGS)
    out.mkdir(exist_ok=True)
    learners = RecoveringLearnerGroup(config, as_ref(Group), (faults if faults is not None else []).append)
    checkpoint = None
    if resume_at is not None:
        checkpoint = Checkpoints(out / "state", 9).latest(pytest.fail)
        assert checkpoint is not None
        assert checkpoint.step == resume_at
        waiting.finish(learners.load_state(checkpoint.learner, universal=False))
    data = TrainingData(records(8), [])
    return Controller(
        config,
        data,
        as_ref(fleet),
        learners,
        as_ref(Rewards()),
        out,
        out,
        TrainingListener(),
        checkpoint,
    )


def alerts(out: Path) -> list[tuple[int, str]]:
    path = out / "alerts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["kind"]) for row in rows]


def test_a_resumed_run_raises_the_alerts_of_the_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = started(tmp_path / "whole", Fleet()).run()
    ((step, kind),) = alerts(tmp_path / "whole")
    assert kind == "entropy_collapse"
    assert whole.steps == step < STEPS, "the alert has stopped the run"

    class Killed(Exception):
        pass

    out, stop_at = tmp_path / "broken", 20 * ((step - 1) // 20)
    controller = started(out, Fleet())

    def write_and_die(*, beside: bool) -> None:
        write_checkpoint(beside=False)
        if controller.step == stop_at:
            raise Killed

    write_checkpoint = controller._checkpoint
    monkeypatch.setattr(controller, "_checkpoint", write_and_die)
    with pytest.raises(Killed):
        controller.run()
    assert alerts(out) == []
    resumed: TrainingResult = started(out, Fleet(), resume_at=stop_at).run()
    assert alerts(out) == [(step, kind)]
    assert resumed.steps == whole.steps


def test_a_run_that_a_fatal_alert_has_stopped_stops_again_when_it_is_resumed(tmp_path: Path) -> None:
    """The driver may die between the fatal alert and the end of the stage."""
    config = load_config(None, (*SETTINGS, "rapo.checkpoint_every=1"))
    whole = started(tmp_path, Fleet(), config=config).run()
    resumed = started(tmp_path, Fleet(), resume_at=whole.steps, config=config).run()
    assert resumed.steps == whole.steps
    assert len(alerts(tmp_path)) == 1


def test_a_run_that_is_asked_to_stop_saves_its_state_and_goes_on_from_there(tmp_path: Path) -> None:
    config = load_config(None, (*SETTINGS, "rapo.checkpoint_every=1000", "rapo.watch.on_collapse=warn"))
    controller = started(tmp_path, Fleet(), config=config)
    with pytest.raises(StoppedError, match="stopped after step 3"):
        controller.run(lambda: controller.step == 3)
    assert started(tmp_path, Fleet(), resume_at=3, config=config).run().steps == STEPS


def test_a_judge_that_answers_nothing_more_ends_the_run_and_loses_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, (*SETTINGS, "rapo.checkpoint_every=1000", "rapo.watch.on_collapse=warn"))
    controller = started(tmp_path, Fleet(), config=config)
    scored = Rewards.score

    def spent_after_three_steps(rewards: Rewards, batch: Any) -> Any:
        if controller.step == 3:
            raise JudgeError("the budget is spent")
        return scored(rewards, batch)

    monkeypatch.setattr(Rewards, "score", spent_after_three_steps)
    with pytest.raises(JudgeError, match="budget"):
        controller.run()
    saved = Checkpoints(tmp_path / "state", 9).latest(pytest.fail)
    assert saved is not None
    assert len(saved.groups) == config.rapo.images_per_step, "the groups of the step are kept"
    monkeypatch.setattr(Rewards, "score", scored)
    assert started(tmp_path, Fleet(), resume_at=3, config=config).run().steps == STEPS
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "no step is repeated or left out"


def test_the_state_is_saved_before_a_node_goes(tmp_path: Path) -> None:
    config = load_config(None, (*SETTINGS, "rapo.checkpoint_every=1000", "rapo.watch.on_collapse=warn"))
    fleet = Fleet()
    controller = started(tmp_path, fleet, config=config)
    fleet.draining = ["spot-1"]
    controller.run()
    assert [folder.name for folder in (tmp_path / "state").glob("step-*")] == ["step-000001"]


def test_a_run_whose_sampler_and_learner_differ_ends_before_anything_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, (*SETTINGS, "rapo.checkpoint_every=1"))
    controller, step = started(tmp_path, Fleet(), config=config), Group.step
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))

    def differing(self: Group, shares: Any, images: Any) -> Waiting[dict[str, float]]:
        return (yield from step(self, shares, images)) | {"mismatch_kl": 0.2}

    monkeypatch.setattr(Group, "step", differing)
    monkeypatch.setattr(Group, "publish", pytest.fail)
    with pytest.raises(ModelError, match="different policies of this 'gemma3'"):
        controller.run()
    assert not list((tmp_path / "state").glob("step-*"))


def test_a_fatal_error_of_the_fleet_is_no_failure_of_another_role(tmp_path: Path) -> None:
    faults: list[Fault] = []
    fleet, Group.made = Fleet(), 0
    controller = started(tmp_path, fleet, faults=faults)
    sampled = fleet.poll

    def no_room_while_the_learner_works(timeout_s: float, others: Any = ()) -> list[RolloutResult]:
        if others == ["a rank's step"]:
            fleet.error = RoleError("the cluster had no room for a rollout worker")
        return sampled(timeout_s, others)

    fleet.poll = no_room_while_the_learner_works  # type: ignore[method-assign]
    with pytest.raises(RoleError, match="no room for a rollout worker"):
        controller.run()
    assert Group.made == 1, "the learner ranks are not rebuilt"
    assert not faults
