"""ImageScorer: scores an image with one engine, without gRPC: decodes it, runs a readout, keeps the
result.

- A score is never made up.
- A caller that goes away, or whose deadline passes, ends the decoding of its image and cancels the
  engine's work.
- Callers take turns: none can keep the others from the decoders, the engine or the queue.
- The same bytes, readout and model give the same result, from the cache or not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import grpc
import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from PIL import Image

from rapo.answers.parse import Answer, parse_answer
from rapo.answers.readout_names import ReadoutName
from rapo.config import Config
from rapo.errors import ImageError, RoleError, ServiceError
from rapo.inference.answer_tokens import CLOSE, OPEN
from rapo.inference.engine_thread import EngineThread
from rapo.inference.types import EncodedImage, ReadoutRequest, ReadoutResult, SamplingSpec
from rapo.util.cache import keep
from rapo.util.seeds import derive_seed
from services.replica.decoding import Decoding, FairDecoding, ImageInspector
from services.replica.fair_places import FairPlaces
from services.room import Room
from services.statuses import QUEUE_FULL, Refusal, Refused, invalid

# An answer is no score if the model gives all numbers of two decimals together less probability
# than this.
_MIN_INSIDE = 0.05

# What one kept result takes beside its text, in bytes; generous.
_OVERHEAD = 1024

_WHY = {
    "truncated": "it reached the token limit",
    "no_think": "it has no rationale",
    "no_answer": "it has no answer",
    "repeated_tag": "a tag occurs twice",
    "extra_text": "there is text outside the tags",
    "not_a_number": "its answer is not a number",
    "out_of_range": "its answer is outside 0 to 1",
}

#: Gets the token ids of a greedy answer as they come, in the engine's thread.
OnTokens = Callable[[list[int]], None]


@dataclass(frozen=True, slots=True)
class ReadoutSpec:
    """A readout by name, and how many answers to sample (0 unless it is `sampled`)."""

    readout: ReadoutName
    samples: int = 0


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """Score, spread and interval (absent with `greedy`) in [0, 1]; times in milliseconds; `outside`
    as in `rapo.answers.readout`.

    `tokens` is the number of tokens that the model wrote, `nodes` the number of nodes of the answer
    tree that were requests of their own.
    """

    score: float
    rationale: str
    std: float | None = None
    interval: tuple[float, float] | None = None
    outside: float | None = None
    tokens: int = 0
    nodes: int = 0
    decode_ms: float = 0.0
    queue_ms: float = 0.0
    generate_ms: float = 0.0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as the engine takes it, and the milliseconds that it took to make it so."""

    encoded: EncodedImage
    milliseconds: float


class ImageEncoder(Protocol):
    """The part of `rapo.inference.readout_engine.ReadoutEngine` that may be called from any
    thread."""

    def encode(self, image: Image.Image, key: str) -> EncodedImage: ...
    def text(self, token_ids: NDArray[np.int32]) -> str: ...


class ImageScorer:
    """Scores images with one engine. It belongs to one event loop."""

    def __init__(
        self,
        engine: EngineThread[ReadoutRequest, ReadoutResult],
        encoder: ImageEncoder,
        config: Config,
        decoding: Decoding | None = None,
    ) -> None:
        self._engine = engine
        self._encoder = encoder
        self._config = config
        self._slots = FairPlaces(config.serve.max_ongoing_requests)
        self._room = Room(config.serve.max_ongoing_requests + config.serve.max_queued_requests)
        #: Images whose callers went away, or ran out of time, before they were scored.
        self.cancelled = 0
        self._inspector = ImageInspector(config.image)
        self._decoding = decoding or FairDecoding(config.image, config.serve.request_timeout_s)
        self._kept: LRUCache[tuple[str, ReadoutSpec], ScoredImage] = LRUCache(
            config.serve.cache_mib * 2**20, lambda scored: len(scored.rationale.encode()) + _OVERHEAD
        )

    async def score(
        self, data: bytes, spec: ReadoutSpec, on_tokens: OnTokens | None = None, *, caller: str = ""
    ) -> ScoredImage:
        """Score an encoded image of a caller.

        Raises `Refused`: INVALID_ARGUMENT for an unusable image, FAILED_PRECONDITION if the model
        gives no score, UNAVAILABLE if the engine is gone, RESOURCE_EXHAUSTED if too many images
        wait already.
        """
        try:
            digest, heavy = await self._inspector.inspect(data)
        except ImageError as error:
            raise invalid("image", str(error), error.reason) from error
        key = (digest, spec)
        if (kept := self._kept.get(key)) is not None:
            return replace(kept, cached=True, decode_ms=0.0, queue_ms=0.0, generate_ms=0.0, tokens=0, nodes=0)
        if not self._room.has(caller):
            raise Refused(QUEUE_FULL)
        with self._room.taken(caller):
            # A heavy image does not hold a place at the engine while it is decoded.
            try:
                image = await self._decode(data, digest, caller, heavy=True) if heavy else data
                scored = await self._score_at_place(image, digest, spec, on_tokens, caller)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        keep(self._kept, key, scored)
        return scored

    async def _score_at_place(
        self, image: bytes | DecodedImage, digest: str, spec: ReadoutSpec, on_tokens: OnTokens | None, caller: str
    ) -> ScoredImage:
        """Score an image at a place of the caller at the engine.

        Serve could queue as well, but it tries a full replica again only after a pause that grows
        to half a second, in which the engine runs dry. Behind its queue not even `GetModel` is
        answered.
        """
        started = perf_counter()
        async with self._slots.place(caller):
            queue_ms = 1000 * (perf_counter() - started)
            if isinstance(image, bytes):
                image = await self._decode(image, digest, caller, heavy=False)
            result = await self._run(image.encoded, self._request(spec, on_tokens), derive_seed("sampled", digest))
        return replace(
            self._scored(result, spec),
            tokens=sum(len(completion.token_ids) for completion in result.completions),
            nodes=result.nodes,
            decode_ms=image.milliseconds,
            queue_ms=queue_ms + 1000 * result.waited_s,
            generate_ms=1000 * result.worked_s,
        )

    def text(self, token_ids: list[int]) -> str:
        """The text of token ids."""
        return self._encoder.text(np.asarray(token_ids, np.int32))

    def close(self) -> None:
        """Stop the engine and the decoders."""
        self._inspector.close()
        self._decoding.close()
        self._engine.close()

    async def _decode(self, data: bytes, digest: str, caller: str, *, heavy: bool) -> DecodedImage:
        started = perf_counter()
        try:
            encoded = await self._decoding.decode(
                data, caller, lambda image: self._encoder.encode(image, digest), heavy=heavy
            )
        except ImageError as error:
            raise invalid("image", str(error), error.reason) from error
        except RoleError as error:
            words = "the image's decoder was lost; try again"
            raise Refused(Refusal(grpc.StatusCode.UNAVAILABLE, words, "decoder_lost")) from error
        return DecodedImage(encoded, 1000 * (perf_counter() - started))

    def _request(self, spec: ReadoutSpec, on_tokens: OnTokens | None) -> ReadoutRequest:
        limit = self._config.policy.max_completion_tokens
        if spec.readout == "sampled":
            return ReadoutRequest(
                SamplingSpec(spec.samples, self._config.rapo.sampling.temperature, limit, logprobs=False)
            )
        greedy = SamplingSpec(1, 0.0, limit, logprobs=False)
        if spec.readout == "fast":
            return ReadoutRequest(greedy, tree=True, rationale=False)
        return ReadoutRequest(greedy, tree=spec.readout == "expected", on_tokens=on_tokens)

    async def _run(self, encoded: EncodedImage, request: ReadoutRequest, seed: int) -> ReadoutResult:
        future = self._engine.add(encoded, request, seed)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._engine.cancel(future)
            raise
        except ValueError as error:
            raise invalid("image", f"the model does not take the image: {error}", "too_many_tokens") from error
        except Exception as error:
            if self._engine.alive:
                raise
            words = "the engine is restarting; try again"
            raise Refused(Refusal(grpc.StatusCode.UNAVAILABLE, words, "engine_dead")) from error

    def _scored(self, result: ReadoutResult, spec: ReadoutSpec) -> ScoredImage:
        if spec.readout == "sampled":
            return self._sampled(result)
        completion = result.completions[0]
        text = self._encoder.text(completion.token_ids)
        if spec.readout == "greedy":
            answer = parse_answer(text, truncated=completion.finish_reason == "length")
            return ScoredImage(_score(answer), answer.rationale)
        rationale = "" if spec.readout == "fast" else _rationale(text, completion.finish_reason)
        if result.tree is None:
            raise RuntimeError("the engine gave an answer without its tree")
        try:
            expected = result.tree.expectation()
        except ServiceError as error:
            raise _no_score("not_a_number") from error
        if expected.outside > 1.0 - _MIN_INSIDE:
            raise _no_score("not_a_number")
        return ScoredImage(
            expected.mean, rationale, expected.std, (expected.low, expected.high), outside=expected.outside
        )

    def _sampled(self, result: ReadoutResult) -> ScoredImage:
        answers = [
            parse_answer(self._encoder.text(c.token_ids), truncated=c.finish_reason == "length")
            for c in result.completions
        ]
        valid = [answer for answer in answers if answer.score is not None]
        if len(valid) < 2:
            reasons = Counter(answer.reason or "no_answer" for answer in answers if answer.score is None)
            raise _no_score(reasons.most_common(1)[0][0])
        scores = np.array([_score(answer) for answer in valid])
        mean = float(scores.mean())
        nearest = valid[int(np.abs(scores - mean).argmin())]
        low, high = (float(end) for end in np.quantile(scores, (0.05, 0.95)))
        return ScoredImage(mean, nearest.rationale, float(scores.std(ddof=1)), (low, high))


def _rationale(text: str, finish_reason: str) -> str:
    """The rationale before an answer that was not waited for. Raises `Refused` unless the text up
    to the answer has the right form."""
    before, opened, _ = text.partition(OPEN)
    # The number does not matter: only the text before it is used.
    answer = (
        parse_answer(f"{before}{OPEN}0.00{CLOSE}")
        if opened
        else parse_answer(text, truncated=finish_reason == "length")
    )
    _score(answer)
    return answer.rationale


def _score(answer: Answer) -> float:
    if answer.score is None:
        raise _no_score(answer.reason or "no_answer")
    return answer.score


def _no_score(reason: str) -> Refused:
    words = f"the model's answer holds no score: {_WHY[reason]} ({reason})"
    return Refused(Refusal(grpc.StatusCode.FAILED_PRECONDITION, words, reason))
