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
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import grpc
import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from rapo.answers.readout_names import ReadoutName
from rapo.config import Config
from rapo.errors import ImageError, RoleError
from rapo.families.inputs import EncodedImage
from rapo.inference.engine_thread import EngineThread
from rapo.inference.reading import NoScore, Reading, ReadoutPlan
from rapo.inference.types import ReadoutRequest, ReadoutResult
from rapo.util.cache import keep
from rapo.util.seeds import derive_seed
from services.fair_places import FairPlaces
from services.replica.decoding import Decoding, FairDecoding, ImageInspector
from services.room import Room
from services.statuses import QUEUE_FULL, Refusal, Refused, invalid

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
class ScoredImage(Reading):
    """A reading, and what it took; times in milliseconds.

    `tokens` is the number of tokens that the model wrote, `nodes` that of the requests that the
    tree of answers took beside.
    """

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

    def encode(self, pixels: NDArray[np.uint8], key: str) -> EncodedImage: ...
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
        plan = self._plan(spec)
        async with self._slots.place(caller):
            queue_ms = 1000 * (perf_counter() - started)
            if isinstance(image, bytes):
                image = await self._decode(image, digest, caller, heavy=False)
            result = await self._run(image.encoded, plan.request(on_tokens), derive_seed("sampled", digest))
        try:
            reading = plan.read(result, self._encoder.text)
        except NoScore as error:
            raise _no_score(error.reason) from error
        return ScoredImage(
            **dataclasses.asdict(reading),
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
                data, caller, lambda pixels: self._encoder.encode(pixels, digest), heavy=heavy
            )
        except ImageError as error:
            raise invalid("image", str(error), error.reason) from error
        except RoleError as error:
            words = "the image's decoder was lost; try again"
            raise Refused(Refusal(grpc.StatusCode.UNAVAILABLE, words, "decoder_lost")) from error
        return DecodedImage(encoded, 1000 * (perf_counter() - started))

    def _plan(self, spec: ReadoutSpec) -> ReadoutPlan:
        config = self._config
        return ReadoutPlan(
            spec.readout,
            config.policy.max_completion_tokens,
            spec.samples,
            config.rapo.sampling.temperature,
            config.serve.force_answer,
        )

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


def _no_score(reason: str) -> Refused:
    words = f"the model's answer holds no score: {_WHY[reason]} ({reason})"
    return Refused(Refusal(grpc.StatusCode.FAILED_PRECONDITION, words, reason))
