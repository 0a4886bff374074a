"""Rollout workers that are plain objects, and fleets of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fakes import as_ref
from ray.exceptions import ActorDiedError

from actors.messages import GroupReceipt, ProcessInfo
from cluster.remote.faults import Fault
from cluster.rollout.fleet import Fleet
from cluster.rollout.listener import FleetListener, WorkerEvent
from cluster.rollout.tasks import RolloutResult, Task
from cluster.rollout.worker_handle import WorkerHandle
from rapo.config import load_config
from rapo.records import ImageRecord

FAST = ("rollout.cpus=0", "rollout.heartbeat_s=0.05", "rollout.max_groups=2", "rollout.workers=2")


class Ref:
    """What a call returns; a test ends it."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self._future

    def ok(self, value: Any) -> None:
        self._future.set_result(value)

    def fail(self, error: Exception) -> None:
        self._future.set_exception(error)

    @property
    def open(self) -> bool:
        return not self._future.done()


class Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Any:
        ref = Ref()
        self._actor.calls.append((self._name, arguments, ref))
        if self._name in self._actor.answers:
            ref.ok(self._actor.answers[self._name](*arguments))
        return (ref, object()) if self._name == "generate" else ref


class Actor:
    """A worker that says hello, answers pings and starts at once; draws and loads end when the test
    says so."""

    def __init__(self, number: int) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], Ref]] = []
        self.killed = False
        self.answers: dict[str, Any] = {
            "hello": lambda: ProcessInfo(f"n{number}", 100 + number, f"id{number}"),
            "ping": lambda: None,
            "start": lambda model, version: None,
            "load_folder": lambda folder, version: version,
        }

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def in_flight(self, name: str) -> list[Ref]:
        return [ref for called, _, ref in self.calls if called == name and ref.open]

    def tickets(self) -> list[str]:
        return [arguments[0].uid for name, arguments, ref in self.calls if name == "generate" and ref.open]


class Workers:
    """Starts plain objects in place of actors; `made` are these."""

    def __init__(self, **answers: Any) -> None:
        self.made: list[Actor] = []
        self._answers = answers

    def __call__(self, *arguments: object, options: Mapping[str, object]) -> Any:
        actor = Actor(len(self.made))
        actor.answers = {name: say for name, say in (actor.answers | self._answers).items() if say is not None}
        self.made.append(actor)
        return actor


class Reports(FleetListener):
    """Keeps the faults and the workers' events."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.events: list[tuple[WorkerEvent, dict[str, float]]] = []

    def fault(self, fault: Fault) -> None:
        self.faults.append(fault)

    def worker(self, event: WorkerEvent, worker: WorkerHandle) -> None:
        self.events.append((event, worker.joining()))


def made(*overrides: str, **answers: Any) -> tuple[Fleet, Workers, list[Fault]]:
    workers, reports = Workers(**answers), Reports()
    fleet = Fleet(load_config(None, (*FAST, *overrides)), workers, reports)
    fleet.start(Path("/model"), 0)
    return fleet, workers, reports.faults


def ready(*overrides: str) -> tuple[Fleet, list[Actor], list[Fault]]:
    fleet, workers, faults = made(*overrides)
    fleet.ready()
    return fleet, workers.made, faults


def task(ticket: int, min_version: int = 0) -> Task:
    return Task(
        ticket, ImageRecord(f"{ticket}", "d", "train", 0.5, 0.5, (0.0, 1.0), data=b"x"), as_ref(), 0, min_version
    )


def receipt(version: int = 0) -> GroupReceipt:
    return GroupReceipt(version, tokens=8, seconds=0.5, busy_seconds=1.0, worker="rollout-0")


def polled(fleet: Fleet, seconds: float = 0.1) -> list[RolloutResult]:
    """What comes in that time; at least ten polls, however slow the machine is."""
    results: list[RolloutResult] = []
    deadline, polls = time.monotonic() + seconds, 0
    while polls < 10 or time.monotonic() < deadline:
        results += fleet.poll(0.01)
        polls += 1
    return results


def states(fleet: Fleet) -> list[str]:
    return [worker.state.value for worker in fleet.workers]


def died() -> Exception:
    return ActorDiedError()
