"""Sampled completions: names, seeds and ends of completions, on a core with scripted outputs."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from rapo.families.inputs import EncodedImage
from rapo.inference.engine_core import StepOutput
from rapo.inference.readout_engine import ReadoutEngine
from rapo.inference.types import ReadoutRequest, SamplingSpec

IMAGE = EncodedImage({}, [7], "key")


class ScriptedCore:
    def __init__(self) -> None:
        self.seeds: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.next: list[StepOutput] = []

    def add(self, name: str, prompt: list[int], features: list[object], parameters: SimpleNamespace) -> None:
        self.seeds[name] = parameters.seed

    def cancel(self, names: Iterable[str]) -> None:
        self.cancelled += names

    def step(self) -> list[StepOutput]:
        return self.next


class ScriptedEngine(ReadoutEngine):
    def __init__(self, core: ScriptedCore) -> None:
        self._core = core  # type: ignore[assignment]
        self._requests, self._max_length, self.version = {}, 8, 3
        self._trees = None
        self.processor = SimpleNamespace(image_token_id=7)  # type: ignore[assignment]

    def _parameters(self, sampling: SamplingSpec, seed: int, **overrides: object) -> SimpleNamespace:
        return SimpleNamespace(seed=seed)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> ScriptedCore:
    monkeypatch.setattr("rapo.inference.readout_engine.features_of", lambda *_: [])
    return ScriptedCore()


def output(name: str, token: int, reason: str | None = None) -> StepOutput:
    return StepOutput(name, [token], np.array([[-0.5]], np.float32), reason)


def test_a_request_ends_with_its_last_completion_and_they_keep_their_order(core: ScriptedCore) -> None:
    engine = ScriptedEngine(core)
    engine.add("a", IMAGE, ReadoutRequest(SamplingSpec(2, 1.0, 4)), 40)
    assert core.seeds == {"a/0": 40, "a/1": 41}
    core.next = [output("a/1", 5, "stop"), output("a/0", 6), output("unknown/0", 9, "stop")]
    assert engine.step() == []
    engine.version = 4
    core.next = [output("a/0", 8, "length")]
    ((name, result),) = engine.step()
    first, second = result.completions
    assert (name, engine.busy) == ("a", False)
    assert (first.token_ids.tolist(), first.versions.tolist(), first.finish_reason) == ([6, 8], [3, 4], "length")
    assert (second.token_ids.tolist(), second.versions.tolist(), second.finish_reason) == ([5], [3], "stop")


def test_cancelling_stops_the_unfinished_completions(core: ScriptedCore) -> None:
    engine = ScriptedEngine(core)
    engine.add("a", IMAGE, ReadoutRequest(SamplingSpec(3, 1.0, 4)), 0)
    core.next = [output("a/1", 5, "stop"), output("a/0", 6), output("a/2", 6)]
    engine.step()
    engine.cancel("a")
    engine.cancel("unknown")
    assert sorted(core.cancelled) == ["a/0", "a/2"]
    assert not engine.busy
    core.next = [output("a/0", 8, "stop")]
    assert engine.step() == []


def test_a_request_that_the_core_refuses_leaves_nothing(core: ScriptedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(core)

    def refuse(*_: object) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(core, "add", refuse)
    with pytest.raises(ValueError, match="no room"):
        engine.add("a", IMAGE, ReadoutRequest(SamplingSpec(1, 1.0, 4)), 0)
    assert not engine.busy


@pytest.mark.parametrize(("completions", "temperature"), [(0, 1.0), (-1, 1.0), (2, 0.0)])
def test_impossible_sampling_is_refused(completions: int, temperature: float) -> None:
    with pytest.raises(ValueError, match="completions"):
        SamplingSpec(completions, temperature, 4)
