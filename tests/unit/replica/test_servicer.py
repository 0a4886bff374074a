"""Scorer, the deployment, with a scripted engine in the place of vLLM and without Ray."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypedDict, Unpack

import grpc
import numpy as np
import pytest
from PIL import Image

from rapo.answers.readout import NODES, AnswerTree
from rapo.config import Config, load_config
from rapo.inference.types import Completion, EncodedImage, ReadoutRequest, ReadoutResult
from rapo.models.card import Card, Scale
from rapo.v1 import scorer_pb2
from rapo.wire import REASON_KEY
from services.names import FIELD_KEY, SECRET_KEY
from services.replica.image_scorer import ImageScorer, ScoredImage
from services.replica.servicer import Scorer

GOOD = "<think>calm light</think><answer>0.61</answer>"


def completion(text: str, finish: str = "stop") -> Completion:
    ids = np.array([ord(character) for character in text], np.int32)
    return Completion(ids, None, finish, np.zeros(len(ids), np.int32))


def tree_of(inside: float = 1.0) -> AnswerTree:
    """0.60 and 0.70 with half of the probability `inside` each."""
    tree = AnswerTree()
    sure = {"": {"0": inside}, "0": {".": 1.0}, "0.": {"6": 0.5, "7": 0.5}, "0.6": {"0": 1.0}, "0.7": {"0": 1.0}}
    for node in NODES:
        chances = sure.get(node, {})
        tree.learn(node, np.log([chances.get(character, 1e-300) for character in "0123456789."]))
    return tree


class FakeEngine:
    """Answers each request with `texts` (one for each sample) and `tree`, or with `failure`, or not
    at all."""

    def __init__(self) -> None:
        self.texts, self.finish = [GOOD], "stop"
        self.tree: AnswerTree | None = tree_of()
        self.failure: Exception | None = None
        self.silent = False
        self.requests: list[ReadoutRequest] = []
        self.encoded_images: list[EncodedImage] = []
        self.seeds: list[int] = []
        self.cancelled: list[Future[ReadoutResult]] = []
        self.alive = True
        self.step_seconds = 0.0
        self.in_flight = 0

    def add(self, encoded: EncodedImage, request: ReadoutRequest, seed: int) -> Future[ReadoutResult]:
        self.requests.append(request)
        self.encoded_images.append(encoded)
        self.seeds.append(seed)
        future: Future[ReadoutResult] = Future()
        if self.silent:
            return future
        if self.failure is not None:
            future.set_exception(self.failure)
            return future
        if request.on_tokens is not None:
            for character in self.texts[0]:
                request.on_tokens([ord(character)])
        texts = [self.texts[k % len(self.texts)] for k in range(request.sampling.completions)]
        completions = tuple(completion(text, self.finish) for text in texts)
        future.set_result(ReadoutResult(completions, self.tree if request.tree else None, 12, 0.25, 0.5))
        return future

    def cancel(self, future: Future[ReadoutResult]) -> None:
        self.cancelled.append(future)

    def close(self) -> None:
        pass


class FakeEncoder:
    def encode(self, image: Image.Image, key: str) -> EncodedImage:
        return EncodedImage(np.asarray(image), np.array([1, *image.size]), [1, 2], key)

    def text(self, token_ids: Iterable[int]) -> str:
        return "".join(map(chr, token_ids))


class Context:
    """The part of Serve's gRPC context that the deployment uses."""

    def __init__(self, secret: str | bytes | None = "s3cret") -> None:
        self.metadata: list[tuple[str, str | bytes]] = [("user-agent", "x")]
        if secret is not None:
            self.metadata.append((SECRET_KEY, secret))
        self.code: grpc.StatusCode | None = None
        self.details = self.reason = self.field = ""

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.reason, self.field = dict(metadata)[REASON_KEY], dict(metadata).get(FIELD_KEY, "")


class ScorerWithoutVllm(Scorer):
    """A replica whose constructor starts no vLLM. `observed` is what it reported to Ray's
    metrics."""

    def __init__(self, engine: FakeEngine, config: Config) -> None:
        card = Card("v7", (Scale("ava", 1.0, 10.0),))
        self.config = config
        self.model_version, self.scales = card.version, {scale.name: scale for scale in card.scales}
        self._secret = b"s3cret"
        stand_in: Any = engine
        self._engine = stand_in
        self._scorer = ImageScorer(stand_in, FakeEncoder(), config)
        self.observed: list[ScoredImage] = []
        self._observe = self.observed.append


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def scorer(engine: FakeEngine) -> ScorerWithoutVllm:
    return ScorerWithoutVllm(engine, Config())


def png(side: int = 32, red: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (red, 20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


class Fields(TypedDict, total=False):
    """Fields of a `ScoreRequest` beside its image."""

    request_id: str
    omit_rationale: bool
    readout: scorer_pb2.Readout
    model_version: str
    native_scale: str
    with_dimensions: bool
    samples: int


def score(
    scorer: Scorer, context: Context, image: bytes | None = None, **fields: Unpack[Fields]
) -> scorer_pb2.ScoreResponse:
    request = scorer_pb2.ScoreRequest(image=png() if image is None else image, **fields)
    return asyncio.run(scorer.Score(request, context))


def explain(scorer: Scorer, context: Context, **fields: Unpack[Fields]) -> list[scorer_pb2.ExplainResponse]:
    async def collect() -> list[scorer_pb2.ExplainResponse]:
        request = scorer_pb2.ScoreRequest(image=png(), **fields)
        return [part async for part in scorer.Explain(request, context)]

    return asyncio.run(collect())


def test_the_default_is_the_expectation_with_its_spread(scorer: ScorerWithoutVllm, engine: FakeEngine) -> None:
    context = Context()
    reply = score(scorer, context, request_id="mine")
    assert context.code is None
    assert (reply.rationale, reply.model_version, reply.request_id) == ("calm light", "v7", "mine")
    assert reply.score == pytest.approx(0.65)
    assert reply.std == pytest.approx(0.05)
    assert (reply.interval.low, reply.interval.high) == (0.6, 0.7)
    assert reply.readout == scorer_pb2.READOUT_EXPECTED
    assert reply.timings.queue_ms >= 250
    assert reply.timings.generate_ms == 500
    assert reply.timings.completion_tokens == len(GOOD)
    assert not reply.cached
    assert not reply.HasField("native_score")
    assert not reply.dimensions
    assert [one.outside for one in scorer.observed] == [pytest.approx(0.0, abs=1e-9)]
    assert engine.encoded_images[0].patches.shape == (32, 32, 3)
    assert score(scorer, context, omit_rationale=True).rationale == ""


def test_greedy_is_the_number_that_was_written(scorer: Scorer) -> None:
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_GREEDY)
    assert (reply.score, reply.rationale, reply.readout) == (0.61, "calm light", scorer_pb2.READOUT_GREEDY)
    assert not reply.HasField("std")
    assert not reply.HasField("interval")


def test_fast_has_no_rationale(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts = ["0.61"]
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_FAST)
    assert reply.score == pytest.approx(0.65)
    assert (reply.rationale, engine.requests[0].rationale, engine.requests[0].tree) == ("", False, True)


def test_sampled_is_the_mean_over_what_has_a_score(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts = [f"<think>{word}</think><answer>{word}</answer>" for word in ("0.2", "0.5", "0.9", "none")]
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=4)
    assert reply.score == pytest.approx((0.2 + 0.5 + 0.9) / 3)
    assert reply.std == pytest.approx(np.std([0.2, 0.5, 0.9], ddof=1))
    assert reply.rationale == "0.5"
    assert 0.2 <= reply.interval.low < 0.5 < reply.interval.high <= 0.9
    assert engine.requests[0].sampling.completions == 4
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED)
    assert engine.requests[1].sampling.completions == Config().serve.samples


def test_seeds_come_from_the_image(scorer: Scorer, engine: FakeEngine) -> None:
    for image in (png(), png(), png(red=1)):
        score(scorer, Context(), image, readout=scorer_pb2.READOUT_SAMPLED, request_id="x")
    assert engine.seeds[0] == engine.seeds[1] != engine.seeds[2]


def test_one_sample_with_a_score_is_no_spread(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts = [GOOD, "no tags"]
    context = Context()
    score(scorer, context, readout=scorer_pb2.READOUT_SAMPLED, samples=2)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "no_think")


def test_native_scale_and_dimensions_where_asked_for(scorer: Scorer) -> None:
    reply = score(scorer, Context(), native_scale="ava", with_dimensions=True)
    assert reply.native_score == pytest.approx(1 + 9 * 0.65)
    assert [(part.name, part.text) for part in reply.dimensions] == [("light and shadow", "calm light")]


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


@pytest.mark.parametrize("readout", [scorer_pb2.READOUT_GREEDY, scorer_pb2.READOUT_EXPECTED])
@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("no tags", "stop", "no_think"),
        ("<think>calm", "length", "truncated"),
        ("<think>calm</think> text <answer>0.6</answer>", "stop", "extra_text"),
        ("<think>calm</think>", "stop", "no_answer"),
    ],
)
def test_an_answer_without_a_score_is_a_status_not_a_score(
    scorer: Scorer, engine: FakeEngine, readout: scorer_pb2.Readout, text: str, finish: str, reason: str
) -> None:
    engine.texts, engine.finish = [text], finish
    if "<answer>" not in text:
        engine.tree = None
    context = Context()
    reply = score(scorer, context, readout=readout)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert reply == scorer_pb2.ScoreResponse()


def test_an_improbable_number_is_no_score(scorer: Scorer, engine: FakeEngine) -> None:
    engine.tree = tree_of(inside=0.04)
    context = Context()
    score(scorer, context)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "not_a_number")
    engine.tree = tree_of(inside=0.06)
    assert score(scorer, Context()).score == pytest.approx(0.65)


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


def test_the_rationale_comes_as_it_is_written(scorer: Scorer) -> None:
    *deltas, last = explain(scorer, Context(), request_id="mine")
    pieces = [part.rationale_delta for part in deltas]
    assert "".join(pieces) == "calm light"
    assert len(pieces) > 3
    assert last.response.score == pytest.approx(0.65)
    assert (last.response.rationale, last.response.request_id) == ("calm light", "mine")


def test_a_rationale_that_comes_whole_is_one_piece(scorer: Scorer) -> None:
    delta, last = explain(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED)
    assert delta.rationale_delta == last.response.rationale == "calm light"
    (only,) = explain(ScorerWithoutVllm(FakeEngine(), Config()), Context(), readout=scorer_pb2.READOUT_FAST)
    assert only.WhichOneof("part") == "response"


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
    greedy = ScorerWithoutVllm(FakeEngine(), load_config(overrides=["serve.readout=greedy"]))
    reply = asyncio.run(greedy.GetModel(scorer_pb2.GetModelRequest(), Context()))
    assert reply.readouts[0] == scorer_pb2.READOUT_GREEDY
