"""Scripted scorer: the deployment with a scripted engine in the place of vLLM and without Ray."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypedDict, TypeVar, Unpack

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rapo.answers.readout import NODES, SYMBOLS, AnswerTree
from rapo.config import Config
from rapo.families.inputs import EncodedImage
from rapo.images.decode import decode_image
from rapo.inference.types import Completion, ReadoutRequest, ReadoutResult
from rapo.models.card import Card, Scale
from rapo.v1 import scorer_pb2
from rapo.wire import REASON_KEY
from services.names import FIELD_KEY, SECRET_KEY
from services.replica.decoding import Decoding
from services.replica.image_scorer import ImageScorer, ScoredImage
from services.replica.servicer import Scorer

T = TypeVar("T")

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
        tree.learn(node, np.log([chances.get(character, 1e-300) for character in SYMBOLS]))
    return tree


class FakeEngine:
    """Answers each request with `texts` (one for each sample) and `tree`, or with `failure`, or not
    at all."""

    def __init__(self) -> None:
        self.texts, self.finish = [GOOD], "stop"
        self.tree: AnswerTree | None = tree_of()
        self.closed: str | None = None
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
        future.set_result(ReadoutResult(completions, self.tree if request.tree else None, 12, 0.25, 0.5, self.closed))
        return future

    def cancel(self, future: Future[ReadoutResult]) -> None:
        self.cancelled.append(future)

    def close(self) -> None:
        pass


class FakeEncoder:
    def encode(self, pixels: NDArray[np.uint8], key: str) -> EncodedImage:
        return EncodedImage({"pixels": pixels}, [1, 2], key)

    def text(self, token_ids: Iterable[int]) -> str:
        return "".join(map(chr, token_ids))


class DirectDecoding:
    """Decodes in this process, at once."""

    async def decode(self, data: bytes, caller: str, then: Callable[[NDArray[np.uint8]], T], *, heavy: bool) -> T:
        return then(np.array(decode_image(data)))

    def close(self) -> None:
        pass


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

    def __init__(self, engine: FakeEngine, config: Config, decoding: Decoding | None = None) -> None:
        card = Card("v7", (Scale("ava", 1.0, 10.0),))
        self.config = config
        self.model_version, self.scales = card.version, {scale.name: scale for scale in card.scales}
        self.calibration = card.interval
        self._secret = b"s3cret"
        stand_in: Any = engine
        self._engine = stand_in
        self._scorer = ImageScorer(stand_in, FakeEncoder(), config, decoding or DirectDecoding())
        self.observed: list[ScoredImage] = []
        self._observe = self.observed.append


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
