"""The deployment's own logic, with a scripted engine in the place of vLLM and no Ray."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from PIL import Image

from rapo.config import Config
from rapo.v1 import scorer_pb2
from services.scorer import REASON_KEY, SECRET_KEY, Scorer

GOOD = "<think>calm light</think><answer>0.61</answer>"


class EngineDead(Exception):
    pass


class Engine:
    """Answers each request with `text`, or raises `failure`."""

    def __init__(self) -> None:
        self.text, self.finish = GOOD, "stop"
        self.failure: Exception | None = None
        self.prompts: list[dict[str, Any]] = []
        self.ids: list[str] = []

    async def generate(self, prompt: dict[str, Any], sampling: object, request_id: str) -> AsyncIterator[Any]:
        self.prompts.append(prompt)
        self.ids.append(request_id)
        if self.failure is not None:
            raise self.failure
        completion = SimpleNamespace(token_ids=[ord(c) for c in self.text], finish_reason=self.finish)
        stats = SimpleNamespace(scheduled_ts=1.0, last_token_ts=1.5)
        yield SimpleNamespace(outputs=[completion], metrics=stats)

    def shutdown(self) -> None:
        pass


class Context:
    """The part of Serve's gRPC context that the deployment uses."""

    def __init__(self, secret: str | bytes | None = "s3cret") -> None:
        self.metadata = [("user-agent", "x"), *([(SECRET_KEY, secret)] if secret is not None else [])]
        self.code: grpc.StatusCode | None = None
        self.details = self.reason = ""

    def invocation_metadata(self) -> list[tuple[str, Any]]:
        return self.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.reason = dict(metadata)[REASON_KEY]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def scorer(engine: Engine) -> Scorer:
    scorer: Any = Scorer.__new__(Scorer)  # the constructor starts vLLM
    scorer.config = Config()
    scorer.model_version = "v7"
    scorer._secret = b"s3cret"
    scorer._engine_dead = EngineDead
    scorer._engine = engine
    scorer._sampling = None
    scorer._processor = SimpleNamespace(prompt_token_ids=[1, 2], decode=lambda ids: "".join(map(chr, ids)))
    return scorer


def png(side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def score(scorer: Scorer, context: Context, image: bytes | None = None, **fields: Any) -> Any:
    request = scorer_pb2.ScoreRequest(image=png() if image is None else image, **fields)
    return asyncio.run(scorer.Score(request, context))


def test_a_good_answer_is_a_full_response(scorer: Scorer, engine: Engine) -> None:
    context = Context()
    reply = score(scorer, context, request_id="mine")
    assert context.code is None
    assert (reply.score, reply.rationale, reply.model_version) == (0.61, "calm light", "v7")
    assert (reply.readout, reply.request_id) == (scorer_pb2.READOUT_GREEDY, "mine")
    assert reply.timings.generate_ms == pytest.approx(500)
    assert reply.timings.completion_tokens == len(GOOD)
    assert engine.prompts[0]["multi_modal_data"]["image"].size == (32, 32)
    assert score(scorer, context, omit_rationale=True).rationale == ""


def test_the_same_id_twice_is_two_requests_for_the_engine(scorer: Scorer, engine: Engine) -> None:
    for _ in range(2):
        score(scorer, Context(), request_id="mine")
    assert len(set(engine.ids)) == 2


@pytest.mark.parametrize("request_id", ["", "two words", "line\nbreak", "x" * 129, "é"])
def test_an_unfit_request_id_is_replaced(scorer: Scorer, request_id: str) -> None:
    reply = score(scorer, Context(), request_id=request_id)
    assert reply.request_id != request_id
    assert len(reply.request_id) == 32


@pytest.mark.parametrize("secret", [None, "", "wrong", "s3cret ", b"\xff\xfe", "ß"])
def test_without_the_secret_nothing_is_done(scorer: Scorer, engine: Engine, secret: str | bytes | None) -> None:
    for call in (
        lambda context: scorer.Score(scorer_pb2.ScoreRequest(image=png()), context),
        lambda context: scorer.GetModel(scorer_pb2.GetModelRequest(), context),
    ):
        context = Context(secret)
        reply = asyncio.run(call(context))
        assert context.code == grpc.StatusCode.PERMISSION_DENIED
        assert reply == type(reply)()
    assert engine.prompts == []


@pytest.mark.parametrize(
    ("image", "reason"), [(b"", "empty"), (b"no image", "unknown_format"), (png(8), "too_small"), (png()[:60], None)]
)
def test_a_bad_image_is_an_invalid_argument(scorer: Scorer, engine: Engine, image: bytes, reason: str | None) -> None:
    context = Context()
    score(scorer, context, image)
    assert context.code == grpc.StatusCode.INVALID_ARGUMENT
    assert context.details
    assert reason is None or context.reason == reason
    assert engine.prompts == []


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("no tags", "stop", "no_think"),
        (GOOD, "length", "truncated"),
        (GOOD.replace("0.61", "7"), "stop", "out_of_range"),
    ],
)
def test_an_answer_without_a_score_is_a_status_not_a_score(
    scorer: Scorer, engine: Engine, text: str, finish: str, reason: str
) -> None:
    engine.text, engine.finish = text, finish
    context = Context()
    reply = score(scorer, context)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert reply == scorer_pb2.ScoreResponse()


def test_a_defect_is_told_without_its_details(scorer: Scorer, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    engine.failure = KeyError("/srv/model/secret.bin")
    context = Context()
    with caplog.at_level(logging.ERROR, logger="ray.serve"):
        score(scorer, context, request_id="mine")
    assert context.code == grpc.StatusCode.INTERNAL
    assert "mine" in context.details
    assert "/srv" not in context.details
    assert "KeyError" in caplog.text


def test_a_dead_engine_is_unavailable(scorer: Scorer, engine: Engine) -> None:
    engine.failure = EngineDead()
    context = Context()
    score(scorer, context)
    assert context.code == grpc.StatusCode.UNAVAILABLE


def test_the_model_is_described(scorer: Scorer) -> None:
    reply = asyncio.run(scorer.GetModel(scorer_pb2.GetModelRequest(), Context()))
    assert (reply.model_version, list(reply.readouts)) == ("v7", [scorer_pb2.READOUT_GREEDY])
    assert (reply.min_score, reply.max_score, reply.max_image_bytes) == (0.0, 1.0, 20 * 2**20)
    assert (reply.min_image_side, reply.max_completion_tokens) == (16, 64)
