"""Scorer, the deployment, on a scripted engine."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from scripted_scorer import Context, FakeEngine, ScorerWithoutVllm, explain, png, score

from rapo.algorithm.conformal import Bin, Calibration
from rapo.config import load_config
from rapo.v1 import scorer_pb2
from services.names import SECRET_KEY
from services.replica.servicer import Scorer


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"readout": 99}, "readout", "unknown_readout"),
        ({"samples": 4}, "samples", "unused_samples"),
        ({"readout": scorer_pb2.READOUT_SAMPLED, "samples": 1}, "samples", "samples_out_of_range"),
        ({"readout": scorer_pb2.READOUT_SAMPLED, "samples": 1000}, "samples", "samples_out_of_range"),
        ({"native_scale": "kg"}, "native_scale", "unknown_scale"),
        ({"image": b""}, "image", "empty"),
        ({"image": b"no image"}, "image", "unknown_format"),
        ({"image": png(8)}, "image", "too_small"),
    ],
)
def test_the_field_at_fault_is_named(
    scorer: Scorer, engine: FakeEngine, fields: dict[str, Any], field: str, reason: str
) -> None:
    context = Context()
    score(scorer, context, **fields)
    assert (context.code, context.field, context.reason) == (grpc.StatusCode.INVALID_ARGUMENT, field, reason)
    assert context.details
    assert engine.requests == []


def test_another_version_is_not_found(scorer: Scorer, engine: FakeEngine) -> None:
    context = Context()
    score(scorer, context, model_version="v8")
    assert (context.code, context.reason) == (grpc.StatusCode.NOT_FOUND, "unknown_version")
    assert score(scorer, Context(), model_version="v7").model_version == "v7"


def test_an_image_that_the_model_does_not_take_is_an_invalid_argument(scorer: Scorer, engine: FakeEngine) -> None:
    engine.failure = ValueError("too long")
    context = Context()
    score(scorer, context)
    assert (context.code, context.field) == (grpc.StatusCode.INVALID_ARGUMENT, "image")


@pytest.mark.parametrize("request_id", ["", "two words", "line\nbreak", "x" * 129, "é"])
def test_an_unfit_request_id_is_replaced(scorer: Scorer, request_id: str) -> None:
    reply = score(scorer, Context(), request_id=request_id)
    assert reply.request_id != request_id
    assert len(reply.request_id) == 32


@pytest.mark.parametrize("secret", [None, "", "wrong", "s3cret ", b"\xff\xfe", "ß"])
def test_without_the_secret_nothing_is_done(scorer: Scorer, engine: FakeEngine, secret: str | bytes | None) -> None:
    for call in (
        lambda context: scorer.Score(scorer_pb2.ScoreRequest(image=png()), context),
        lambda context: scorer.GetModel(scorer_pb2.GetModelRequest(), context),
    ):
        context = Context(secret)
        reply = asyncio.run(call(context))
        assert context.code == grpc.StatusCode.PERMISSION_DENIED
        assert reply == type(reply)()
    assert engine.requests == []


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_without_the_secret_nothing_is_explained(scorer: Scorer, engine: FakeEngine, secret: str | None) -> None:
    context = Context()
    context.metadata = [(SECRET_KEY, secret)] if secret else []
    assert explain(scorer, context) == [scorer_pb2.ExplainResponse()]
    assert context.code == grpc.StatusCode.PERMISSION_DENIED
    assert engine.requests == []


def test_a_defect_is_reported_without_its_details(
    scorer: Scorer, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = KeyError("/srv/model/secret.bin")
    context = Context()
    with caplog.at_level(logging.ERROR, logger="ray.serve"):
        score(scorer, context, request_id="mine")
    assert context.code == grpc.StatusCode.INTERNAL
    assert "mine" in context.details
    assert "/srv" not in context.details
    assert "KeyError" in caplog.text


def test_a_dead_engine_is_unavailable_and_unwell(scorer: Scorer, engine: FakeEngine) -> None:
    asyncio.run(scorer.check_health())
    engine.failure, engine.alive = RuntimeError("gone"), False
    context = Context()
    score(scorer, context)
    assert (context.code, context.reason) == (grpc.StatusCode.UNAVAILABLE, "engine_dead")
    with pytest.raises(RuntimeError, match="died"):
        asyncio.run(scorer.check_health())


def test_a_hung_engine_is_unwell(scorer: Scorer, engine: FakeEngine) -> None:
    engine.step_seconds = 1000.0
    with pytest.raises(RuntimeError, match="one step"):
        asyncio.run(scorer.check_health())


def test_a_caller_that_goes_away_cancels_the_work(scorer: Scorer, engine: FakeEngine) -> None:
    engine.silent = True

    async def give_up() -> None:
        request = scorer_pb2.ScoreRequest(image=png())
        calls = [scorer.Score(request, Context()), anext(aiter(scorer.Explain(request, Context())))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        while len(engine.requests) < len(tasks):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(give_up(), 20))
    assert len(engine.cancelled) == 2
    assert asyncio.run(scorer.statistics()) == {"under_way": 0, "cancelled": 2}


def test_an_image_that_finds_the_queue_full_may_be_retried_later(engine: FakeEngine) -> None:
    scorer = ScorerWithoutVllm(
        engine, load_config(overrides=["serve.max_ongoing_requests=2", "serve.max_queued_requests=1"])
    )
    engine.silent = True

    async def crowd() -> None:
        request, context = scorer_pb2.ScoreRequest(image=png()), Context()
        tasks = [asyncio.ensure_future(scorer.Score(request, Context())) for _ in range(3)]
        while len(engine.requests) < 2:
            await asyncio.sleep(0.01)
        await scorer.Score(request, context)
        assert (context.code, context.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
        tasks[0].cancel()
        while len(engine.requests) < 3:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engine.silent = False
        assert (await scorer.Score(request, Context())).score == pytest.approx(0.65)

    asyncio.run(asyncio.wait_for(crowd(), 20))


def test_an_explanation_that_fails_ends_with_a_status(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts, engine.tree = ["<think>calm</think> and no more"], None
    context = Context()
    *deltas, last = explain(scorer, context)
    assert "".join(part.rationale_delta for part in deltas) == "calm"
    assert last == scorer_pb2.ExplainResponse()
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "no_answer")


def test_the_cache_tells_images_and_readouts_apart(engine: FakeEngine) -> None:
    scorer = ScorerWithoutVllm(engine, load_config(overrides=["serve.cache_mib=1"]))
    first = score(scorer, Context(), request_id="a")
    again = score(scorer, Context(), request_id="b", native_scale="ava", omit_rationale=True)
    assert (first.cached, again.cached) == (False, True)
    assert (again.score, again.std, again.request_id, again.rationale) == (first.score, first.std, "b", "")
    assert again.HasField("native_score")
    assert len(engine.requests) == 1
    score(scorer, Context(), readout=scorer_pb2.READOUT_GREEDY)
    score(scorer, Context(), png(red=3))
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=3)
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=4)
    assert len(engine.requests) == 5
    delta, last = explain(scorer, Context())
    assert (delta.rationale_delta, last.response.cached) == ("calm light", True)


def test_without_a_cache_every_call_is_work(scorer: Scorer, engine: FakeEngine) -> None:
    for _ in range(2):
        assert not score(scorer, Context()).cached
    assert len(engine.requests) == 2


def test_a_failure_is_not_kept(engine: FakeEngine) -> None:
    scorer = ScorerWithoutVllm(engine, load_config(overrides=["serve.cache_mib=1"]))
    engine.failure = KeyError("once")
    score(scorer, Context())
    engine.failure = None
    assert score(scorer, Context()).score == pytest.approx(0.65)


def test_the_model_is_described(scorer: Scorer) -> None:
    reply = asyncio.run(scorer.GetModel(scorer_pb2.GetModelRequest(), Context()))
    assert reply.model_version == "v7"
    assert reply.readouts[0] == scorer_pb2.READOUT_EXPECTED
    assert sorted(reply.readouts) == [1, 2, 3, 4]
    assert (reply.min_score, reply.max_score, reply.max_image_bytes) == (0.0, 1.0, 20 * 2**20)
    assert (reply.min_image_side, reply.max_completion_tokens, reply.limits.max_samples) == (16, 64, 32)
    assert [(scale.name, scale.min, scale.max) for scale in reply.native_scales] == [("ava", 1.0, 10.0)]
    assert not reply.HasField("interval")
    scorer.calibration = Calibration(0.9, "expected", 256, (Bin(0.0, 256, -0.1, 0.1),))
    told = asyncio.run(scorer.GetModel(scorer_pb2.GetModelRequest(), Context())).interval
    assert (told.coverage, told.readout, told.images) == (0.9, scorer_pb2.READOUT_EXPECTED, 256)
    greedy = ScorerWithoutVllm(FakeEngine(), load_config(overrides=["serve.readout=greedy"]))
    reply = asyncio.run(greedy.GetModel(scorer_pb2.GetModelRequest(), Context()))
    assert reply.readouts[0] == scorer_pb2.READOUT_GREEDY
