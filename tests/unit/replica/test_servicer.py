"""The deployment's own logic, with a scripted engine loop in the place of vLLM and no Ray."""

from __future__ import annotations

import asyncio
import io
import logging
from concurrent.futures import Future
from typing import Any

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
from services.replica.image_scorer import ImageScorer
from services.replica.servicer import Scorer

GOOD = "<think>calm light</think><answer>0.61</answer>"


def completion(text: str, finish: str = "stop") -> Completion:
    ids = np.array([ord(character) for character in text], np.int32)
    return Completion(ids, None, finish, np.zeros(len(ids), np.int32))


def tree_of(inside: float = 1.0) -> AnswerTree:
    """Half 0.60, half 0.70, with this probability at all."""
    tree = AnswerTree()
    sure = {"": {"0": inside}, "0": {".": 1.0}, "0.": {"6": 0.5, "7": 0.5}, "0.6": {"0": 1.0}, "0.7": {"0": 1.0}}
    for node in NODES:
        chances = sure.get(node, {})
        tree.learn(node, np.log([chances.get(character, 1e-300) for character in "0123456789."]))
    return tree


class Loop:
    """Answers each ask with `texts` (as many as samples are wanted) and `tree`, or with `failure`;
    or waits for ever."""

    def __init__(self) -> None:
        self.texts, self.finish = [GOOD], "stop"
        self.tree: AnswerTree | None = tree_of()
        self.failure: Exception | None = None
        self.waits = False
        self.asks: list[ReadoutRequest] = []
        self.encoded_images: list[EncodedImage] = []
        self.seeds: list[int] = []
        self.cancelled: list[Future[ReadoutResult]] = []
        self.alive = True
        self.step_seconds = 0.0
        self.under_way = 0

    def add(self, encoded: EncodedImage, ask: ReadoutRequest, seed: int) -> Future[ReadoutResult]:
        self.asks.append(ask)
        self.encoded_images.append(encoded)
        self.seeds.append(seed)
        future: Future[ReadoutResult] = Future()
        if self.waits:
            return future
        if self.failure is not None:
            future.set_exception(self.failure)
            return future
        if ask.tell is not None:
            for character in self.texts[0]:
                ask.tell([ord(character)])
        texts = [self.texts[k % len(self.texts)] for k in range(ask.sampling.completions)]
        drawn = tuple(completion(text, self.finish) for text in texts)
        future.set_result(ReadoutResult(drawn, self.tree if ask.tree else None, 12, 0.25, 0.5))
        return future

    def cancel(self, future: Future[ReadoutResult]) -> None:
        self.cancelled.append(future)


class ImageEncoder:
    def encode(self, image: Image.Image, key: str) -> EncodedImage:
        return EncodedImage(np.asarray(image), np.array([1, *image.size]), [1, 2], key)

    def text(self, token_ids: Any) -> str:
        return "".join(map(chr, token_ids))


class Context:
    """The part of Serve's gRPC context that the deployment uses."""

    def __init__(self, secret: str | bytes | None = "s3cret") -> None:
        self.metadata = [("user-agent", "x"), *([(SECRET_KEY, secret)] if secret is not None else [])]
        self.code: grpc.StatusCode | None = None
        self.details = self.reason = self.field = ""

    def invocation_metadata(self) -> list[tuple[str, Any]]:
        return self.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.reason, self.field = dict(metadata)[REASON_KEY], dict(metadata).get(FIELD_KEY, "")


def make(loop: Loop, config: Config) -> Scorer:
    scorer: Any = Scorer.__new__(Scorer)  # the constructor starts vLLM
    scorer.config = config
    card = Card("v7", (Scale("ava", 1.0, 10.0),))
    scorer.model_version, scorer.scales = card.version, {scale.name: scale for scale in card.scales}
    scorer._secret = b"s3cret"
    scorer._loop = loop
    judge: Any = ImageScorer(loop, ImageEncoder(), config, card.version)  # type: ignore[arg-type]
    judge.close = lambda: None
    scorer._judge, scorer.observed = judge, []
    scorer._observe = scorer.observed.append
    return scorer


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def scorer(loop: Loop) -> Scorer:
    return make(loop, Config())


def png(side: int = 32, red: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (red, 20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def score(scorer: Scorer, context: Context, image: bytes | None = None, **fields: Any) -> Any:
    request = scorer_pb2.ScoreRequest(image=png() if image is None else image, **fields)
    return asyncio.run(scorer.Score(request, context))


def explain(scorer: Scorer, context: Context, **fields: Any) -> list[Any]:
    async def collect() -> list[Any]:
        request = scorer_pb2.ScoreRequest(image=png(), **fields)
        return [part async for part in scorer.Explain(request, context)]

    return asyncio.run(collect())


def test_the_default_is_the_expectation_with_its_spread(scorer: Scorer, loop: Loop) -> None:
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
    assert [one.outside for one in scorer.observed] == [pytest.approx(0.0, abs=1e-9)]  # type: ignore[attr-defined]
    assert loop.encoded_images[0].patches.shape == (32, 32, 3)
    assert score(scorer, context, omit_rationale=True).rationale == ""


def test_greedy_is_the_number_that_was_written(scorer: Scorer) -> None:
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_GREEDY)
    assert (reply.score, reply.rationale, reply.readout) == (0.61, "calm light", scorer_pb2.READOUT_GREEDY)
    assert not reply.HasField("std")
    assert not reply.HasField("interval")


def test_fast_has_no_rationale(scorer: Scorer, loop: Loop) -> None:
    loop.texts = ["0.61"]
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_FAST)
    assert reply.score == pytest.approx(0.65)
    assert (reply.rationale, loop.asks[0].rationale, loop.asks[0].tree) == ("", False, True)


def test_sampled_is_the_mean_over_what_has_a_score(scorer: Scorer, loop: Loop) -> None:
    loop.texts = [f"<think>{word}</think><answer>{word}</answer>" for word in ("0.2", "0.5", "0.9", "none")]
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=4)
    assert reply.score == pytest.approx((0.2 + 0.5 + 0.9) / 3)
    assert reply.std == pytest.approx(np.std([0.2, 0.5, 0.9], ddof=1))
    assert reply.rationale == "0.5"
    assert 0.2 <= reply.interval.low < 0.5 < reply.interval.high <= 0.9
    assert loop.asks[0].sampling.completions == 4
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED)
    assert loop.asks[1].sampling.completions == Config().serve.samples


def test_seeds_come_from_the_image(scorer: Scorer, loop: Loop) -> None:
    for image in (png(), png(), png(red=1)):
        score(scorer, Context(), image, readout=scorer_pb2.READOUT_SAMPLED, request_id="x")
    assert loop.seeds[0] == loop.seeds[1] != loop.seeds[2]


def test_one_sample_with_a_score_is_no_spread(scorer: Scorer, loop: Loop) -> None:
    loop.texts = [GOOD, "no tags"]
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
    scorer: Scorer, loop: Loop, fields: dict[str, Any], field: str, reason: str
) -> None:
    context = Context()
    score(scorer, context, **fields)
    assert (context.code, context.field, context.reason) == (grpc.StatusCode.INVALID_ARGUMENT, field, reason)
    assert context.details
    assert loop.asks == []


def test_another_version_is_not_found(scorer: Scorer, loop: Loop) -> None:
    context = Context()
    score(scorer, context, model_version="v8")
    assert (context.code, context.reason) == (grpc.StatusCode.NOT_FOUND, "unknown_version")
    assert score(scorer, Context(), model_version="v7").model_version == "v7"


def test_a_image_that_the_model_does_not_take_is_an_invalid_argument(scorer: Scorer, loop: Loop) -> None:
    loop.failure = ValueError("too long")
    context = Context()
    score(scorer, context)
    assert (context.code, context.field) == (grpc.StatusCode.INVALID_ARGUMENT, "image")


@pytest.mark.parametrize("request_id", ["", "two words", "line\nbreak", "x" * 129, "é"])
def test_an_unfit_request_id_is_replaced(scorer: Scorer, request_id: str) -> None:
    reply = score(scorer, Context(), request_id=request_id)
    assert reply.request_id != request_id
    assert len(reply.request_id) == 32


@pytest.mark.parametrize("secret", [None, "", "wrong", "s3cret ", b"\xff\xfe", "ß"])
def test_without_the_secret_nothing_is_done(scorer: Scorer, loop: Loop, secret: str | bytes | None) -> None:
    for call in (
        lambda context: scorer.Score(scorer_pb2.ScoreRequest(image=png()), context),
        lambda context: scorer.GetModel(scorer_pb2.GetModelRequest(), context),
    ):
        context = Context(secret)
        reply = asyncio.run(call(context))
        assert context.code == grpc.StatusCode.PERMISSION_DENIED
        assert reply == type(reply)()
    assert loop.asks == []


@pytest.mark.parametrize("secret", [None, "wrong"])
def test_nor_is_anything_explained(scorer: Scorer, loop: Loop, secret: str | None) -> None:
    context = Context()
    context.metadata = [(SECRET_KEY, secret)] if secret else []
    assert explain(scorer, context) == [scorer_pb2.ExplainResponse()]
    assert context.code == grpc.StatusCode.PERMISSION_DENIED
    assert loop.asks == []


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
    scorer: Scorer, loop: Loop, readout: Any, text: str, finish: str, reason: str
) -> None:
    loop.texts, loop.finish = [text], finish
    if "<answer>" not in text:
        loop.tree = None
    context = Context()
    reply = score(scorer, context, readout=readout)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert reply == scorer_pb2.ScoreResponse()


def test_a_number_that_the_model_hardly_ever_writes_is_no_score(scorer: Scorer, loop: Loop) -> None:
    loop.tree = tree_of(inside=0.04)
    context = Context()
    score(scorer, context)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "not_a_number")
    loop.tree = tree_of(inside=0.06)
    assert score(scorer, Context()).score == pytest.approx(0.65)


def test_a_defect_is_told_without_its_details(scorer: Scorer, loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    loop.failure = KeyError("/srv/model/secret.bin")
    context = Context()
    with caplog.at_level(logging.ERROR, logger="ray.serve"):
        score(scorer, context, request_id="mine")
    assert context.code == grpc.StatusCode.INTERNAL
    assert "mine" in context.details
    assert "/srv" not in context.details
    assert "KeyError" in caplog.text


def test_a_dead_engine_is_unavailable_and_unwell(scorer: Scorer, loop: Loop) -> None:
    asyncio.run(scorer.check_health())
    loop.failure, loop.alive = RuntimeError("gone"), False
    context = Context()
    score(scorer, context)
    assert (context.code, context.reason) == (grpc.StatusCode.UNAVAILABLE, "engine_dead")
    with pytest.raises(RuntimeError, match="died"):
        asyncio.run(scorer.check_health())


def test_a_hung_engine_is_unwell(scorer: Scorer, loop: Loop) -> None:
    loop.step_seconds = 1000.0
    with pytest.raises(RuntimeError, match="one step"):
        asyncio.run(scorer.check_health())


def test_a_caller_who_goes_away_takes_the_work_with_him(scorer: Scorer, loop: Loop) -> None:
    loop.waits = True

    async def give_up() -> None:
        request = scorer_pb2.ScoreRequest(image=png())
        calls = [scorer.Score(request, Context()), anext(aiter(scorer.Explain(request, Context())))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        while len(loop.asks) < len(tasks):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(give_up(), 20))
    assert len(loop.cancelled) == 2
    assert asyncio.run(scorer.statistics()) == {"under_way": 0, "cancelled": 2}


def test_what_finds_no_place_in_the_queue_is_told_to_come_back(loop: Loop) -> None:
    scorer = make(loop, load_config(overrides=["serve.max_ongoing_requests=2", "serve.max_queued_requests=1"]))
    loop.waits = True

    async def crowd() -> None:
        request, context = scorer_pb2.ScoreRequest(image=png()), Context()
        tasks = [asyncio.ensure_future(scorer.Score(request, Context())) for _ in range(3)]
        while len(loop.asks) < 2:
            await asyncio.sleep(0.01)
        await scorer.Score(request, context)
        assert (context.code, context.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
        tasks[0].cancel()
        while len(loop.asks) < 3:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loop.waits = False
        assert (await scorer.Score(request, Context())).score == pytest.approx(0.65)

    asyncio.run(asyncio.wait_for(crowd(), 20))


def test_the_rationale_is_told_as_it_is_written(scorer: Scorer) -> None:
    *deltas, last = explain(scorer, Context(), request_id="mine")
    pieces = [part.rationale_delta for part in deltas]
    assert "".join(pieces) == "calm light"
    assert len(pieces) > 3
    assert last.response.score == pytest.approx(0.65)
    assert (last.response.rationale, last.response.request_id) == ("calm light", "mine")


def test_a_rationale_that_comes_whole_is_told_whole(scorer: Scorer) -> None:
    delta, last = explain(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED)
    assert delta.rationale_delta == last.response.rationale == "calm light"
    (only,) = explain(make(Loop(), Config()), Context(), readout=scorer_pb2.READOUT_FAST)
    assert only.WhichOneof("part") == "response"


def test_an_explanation_that_fails_ends_with_a_status(scorer: Scorer, loop: Loop) -> None:
    loop.texts, loop.tree = ["<think>calm</think> and no more"], None
    context = Context()
    *deltas, last = explain(scorer, context)
    assert "".join(part.rationale_delta for part in deltas) == "calm"
    assert last == scorer_pb2.ExplainResponse()
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "no_answer")


def test_the_cache_knows_image_and_readout(loop: Loop) -> None:
    scorer = make(loop, load_config(overrides=["serve.cache_mib=1"]))
    first = score(scorer, Context(), request_id="a")
    again = score(scorer, Context(), request_id="b", native_scale="ava", omit_rationale=True)
    assert (first.cached, again.cached) == (False, True)
    assert (again.score, again.std, again.request_id, again.rationale) == (first.score, first.std, "b", "")
    assert again.HasField("native_score")
    assert len(loop.asks) == 1
    score(scorer, Context(), readout=scorer_pb2.READOUT_GREEDY)
    score(scorer, Context(), png(red=3))
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=3)
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=4)
    assert len(loop.asks) == 5
    delta, last = explain(scorer, Context())
    assert (delta.rationale_delta, last.response.cached) == ("calm light", True)


def test_without_a_cache_every_call_is_work(scorer: Scorer, loop: Loop) -> None:
    for _ in range(2):
        assert not score(scorer, Context()).cached
    assert len(loop.asks) == 2


def test_a_failure_is_not_kept(loop: Loop) -> None:
    scorer = make(loop, load_config(overrides=["serve.cache_mib=1"]))
    loop.failure = KeyError("once")
    score(scorer, Context())
    loop.failure = None
    assert score(scorer, Context()).score == pytest.approx(0.65)


def test_the_model_is_described(scorer: Scorer) -> None:
    reply = asyncio.run(scorer.GetModel(scorer_pb2.GetModelRequest(), Context()))
    assert reply.model_version == "v7"
    assert reply.readouts[0] == scorer_pb2.READOUT_EXPECTED
    assert sorted(reply.readouts) == [1, 2, 3, 4]
    assert (reply.min_score, reply.max_score, reply.max_image_bytes) == (0.0, 1.0, 20 * 2**20)
    assert (reply.min_image_side, reply.max_completion_tokens, reply.limits.max_samples) == (16, 64, 32)
    assert [(scale.name, scale.min, scale.max) for scale in reply.native_scales] == [("ava", 1.0, 10.0)]
    greedy = make(Loop(), load_config(overrides=["serve.readout=greedy"]))
    reply = asyncio.run(greedy.GetModel(scorer_pb2.GetModelRequest(), Context()))
    assert reply.readouts[0] == scorer_pb2.READOUT_GREEDY
