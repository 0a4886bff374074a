"""Engine: what it does after a load where vLLM keeps blocks of its KV cache, which the old weights
filled. The engine and its thread are the real ones; vLLM is scripted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_core import USUAL, ScriptedCore, ScriptedEngine, image_of, model

from rapo.errors import WeightError
from rapo.inference.engine_thread import EngineThread
from rapo.inference.types import ReadoutRequest, ReadoutResult, SamplingSpec

LIMIT = 10.0
REQUEST = ReadoutRequest(SamplingSpec(1, 0.0, 32, logprobs=False), tree=False, rationale=True)


class ScriptedVllm:
    """vLLM's calls around a load. `kept`: its scheduler cannot free some blocks, of which it tells
    an idle engine by False and a busy one by an error (`Scheduler.reset_prefix_cache`)."""

    def __init__(self) -> None:
        self.kept = False
        self.calls: list[str] = []
        self.llm_engine = self
        self.engine_core = SimpleNamespace(engine_core=SimpleNamespace(scheduler=SimpleNamespace(requests={})))

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[None]:
        if method == "rapo_load_weights":
            list(args[0])
        self.calls.append(method)
        return [None]

    def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        self.calls.append(f"reset_prefix_cache({reset_running_requests})")
        if self.kept and reset_running_requests:
            raise RuntimeError("Failed to reset KV cache")
        return not self.kept

    def reset_mm_cache(self) -> None:
        self.calls.append("reset_mm_cache")

    def reset_encoder_cache(self) -> None:
        self.calls.append("reset_encoder_cache")


class GatedCore(ScriptedCore):
    """Its requests go on only while `open`."""

    open = True

    def step(self) -> list[Any]:
        return super().step() if self.open else []


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapo.inference.readout_engine.features_of", lambda *_: [])


@pytest.fixture
def vllm() -> ScriptedVllm:
    return ScriptedVllm()


@pytest.fixture
def engine(vllm: ScriptedVllm) -> ScriptedEngine:
    made: Any = ScriptedEngine(GatedCore(model(USUAL)))
    made._llm = made._engine = vllm
    made._stored_names, made._in_many_processes, made._asleep = {}, False, False
    return made


@pytest.fixture
def thread(engine: ScriptedEngine) -> Iterator[EngineThread[ReadoutRequest, ReadoutResult]]:
    made = EngineThread(lambda: engine, continue_over_update=True)
    yield made
    made.close()


def weights() -> Iterable[Any]:
    return iter([])


def test_an_engine_whose_cache_was_dropped_holds_the_version(engine: ScriptedEngine, vllm: ScriptedVllm) -> None:
    engine.load(weights(), 1)
    assert engine.version == 1
    caches = ["reset_prefix_cache(False)", "reset_mm_cache", "reset_encoder_cache"]
    assert vllm.calls == ["rapo_load_weights", *caches], "what the old weights filled is dropped after the load"
    engine.add("a", image_of(2), REQUEST, 0)
    engine.load(weights(), 2)
    assert vllm.calls[5] == "reset_prefix_cache(True)", "requests in flight compute their tokens again"
    assert "rapo_keep_images" in vllm.calls[5:]
    assert "reset_mm_cache" not in vllm.calls[5:]


def test_an_engine_that_kept_blocks_refuses_requests_until_a_load_that_drops_them(
    thread: EngineThread[ReadoutRequest, ReadoutResult], engine: ScriptedEngine, vllm: ScriptedVllm
) -> None:
    vllm.kept = True
    with pytest.raises(WeightError, match="kept blocks of its KV cache"):
        thread.load(weights, 1).result(LIMIT)
    assert engine.version is None
    with pytest.raises(WeightError, match="no verified weights"):
        thread.add(image_of(2), REQUEST, 0).result(LIMIT)
    vllm.kept = False
    assert thread.load(weights, 1).result(LIMIT) == 1
    (completion,) = thread.add(image_of(2), REQUEST, 0).result(LIMIT).completions
    assert set(completion.versions.tolist()) == {1}


def test_an_engine_that_keeps_blocks_of_requests_in_flight_is_given_up(
    thread: EngineThread[ReadoutRequest, ReadoutResult], engine: ScriptedEngine, vllm: ScriptedVllm
) -> None:
    core: Any = engine._core
    core.open, vllm.kept = False, True
    running = thread.add(image_of(2), REQUEST, 0)
    with pytest.raises(RuntimeError, match="Failed to reset KV cache"):
        thread.load(weights, 1).result(LIMIT)
    with pytest.raises(RuntimeError, match="Failed to reset KV cache"):
        running.result(LIMIT)
    assert engine.version is None
    assert not thread.alive
