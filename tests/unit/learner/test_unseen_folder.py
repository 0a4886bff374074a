"""Ranks on nodes that do not see the run's folder: what they read, and who writes for them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from actors import run_files
from cluster.learner import group as module
from cluster.learner.group import LearnerGroup
from rapo.config import load_config

T = TypeVar("T")


class Rank:
    """Writes down what it is asked for, and answers 7."""

    def __init__(self, asked: list[tuple[object, ...]]) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*arguments: object, **named: object) -> int:
            self._asked.append(("rank", name, *arguments))
            return 7

        return SimpleNamespace(remote=remote)


def each(group: LearnerGroup, calls: Sequence[T]) -> Generator[object, None, list[T]]:
    yield None
    return list(calls)


def answer(waiting: Generator[object, None, T]) -> T:
    while True:
        try:
            next(waiting)
        except StopIteration as end:
            result: T = end.value
            return result


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []

    def on_node(node: str, function: Callable[..., object]) -> Callable[..., object]:
        def remote(*arguments: object) -> dict[str, str]:
            calls.append((node, function.__name__, *arguments))
            return {f"{arguments[-1]}.pt": "written"}

        return remote

    monkeypatch.setattr(LearnerGroup, "_each", each)
    monkeypatch.setattr(module, "request_placement", lambda *arguments: None)
    monkeypatch.setattr(
        module.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "the driver's node")
    )
    monkeypatch.setattr(run_files, "on_node", on_node)
    return calls


def made(asked: list[tuple[object, ...]], where: Callable[[Path], Path] | None) -> LearnerGroup:
    launch: Any = lambda *arguments, options: Rank(asked)  # noqa: E731
    return LearnerGroup(load_config(overrides=["learner.workers=2"]), launch, where=where)


def test_ranks_that_do_not_see_the_runs_folder_read_from_the_url_and_the_drivers_node_writes(asked):
    group = made(asked, lambda folder: Path("s3:/bucket") / folder.name)
    states: Any = [("copied", "files 0"), ("copied", "files 1")]
    weights: Any = SimpleNamespace(manifests=("manifest",), chunks=("chunk",))
    assert answer(group.write_state(Path("/run/a"), states)) == {"files 0.pt": "written", "files 1.pt": "written"}
    answer(group.convert_state(Path("/run/a"), Path("/run/b")))
    answer(group.save_model(Path("/run/m"), Path("/run/start"), weights))
    assert answer(group.load_state(Path("/run/b"), universal=True)) == 7
    limit = load_config().learner.step_timeout_s
    assert asked == [
        ("the driver's node", "write_state", "/run/a", "files 0"),
        ("the driver's node", "write_state", "/run/a", "files 1"),
        ("the driver's node", "convert_state", "/run/a", "/run/b", limit),
        ("the driver's node", "save_model", "/run/m", "/run/start", "manifest", "chunk"),
        *[("rank", "load_state", "s3:/bucket/b")] * 2,
    ]


def test_ranks_that_see_the_runs_folder_write_there_themselves(asked):
    group = made(asked, None)
    answer(group.convert_state(Path("/run/a"), Path("/run/b")))
    answer(group.load_state(Path("/run/b"), universal=True))
    assert {who for who, *_ in asked} == {"rank"}
    assert asked[-1] == ("rank", "load_state", "/run/b")
