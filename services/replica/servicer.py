"""Scorer: the Serve deployment around one vLLM engine. Its method names are the RPC names of
`AestheticScorer`.

- A call without the gateway's secret gets no information.
- Neither tracebacks nor paths nor anything of an image reach a caller or the log.

`services.replica.image_scorer` has the scoring itself.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import grpc
from PIL import Image

from rapo.answers.rationale_stream import RationaleStream
from rapo.answers.readout_names import READOUTS
from rapo.config import Config
from rapo.models.card import Card
from rapo.storage.local_copy import local_copy
from rapo.util.freed_memory import return_freed_memory
from rapo.util.garbage import collector_off
from rapo.v1 import scorer_pb2
from rapo.wire import READOUT_NUMBERS, REASON_KEY
from services.loopback import listen_where_ray_does
from services.names import CALLER_KEY, FIELD_KEY, SECRET_KEY, read_secret, request_id_or_new
from services.replica.convert import calibration_message, readout_of, response_of
from services.replica.image_scorer import ImageScorer, ReadoutSpec, ScoredImage
from services.statuses import Refusal, Refused

logger = logging.getLogger("ray.serve")

#: An engine that has been at one step for so long counts as hung, and its replica is replaced.
_HUNG_S = 120.0

_OUTSIDE_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95)


class CallContext(Protocol):
    """The part of `ray.serve.grpc_util.RayServegRPCContext` that the deployment uses."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]: ...
    def set_code(self, code: grpc.StatusCode, /) -> None: ...
    def set_details(self, details: str, /) -> None: ...
    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]], /) -> None: ...


class Scorer:
    """One replica: one engine. Ready only after a warm-up of every readout."""

    # Serve awaits the constructor.
    async def __init__(self, config: Config, model_dir: str, card: Card, secret: str | Path) -> None:  # type: ignore[misc]
        self.config = config
        self.model_version = card.version
        self.scales = {scale.name: scale for scale in card.scales}
        self.calibration = card.interval
        return_freed_memory()
        listen_where_ray_does()  # Serve opens the replica's port when it is ready
        self._secret = (read_secret(secret) if isinstance(secret, Path) else secret).encode()
        # The environment keeps vLLM from setting this itself (`services.replica.deployment`); its
        # CPU build warns once per request.
        logging.getLogger("vllm").setLevel(logging.ERROR)
        # Not at the top: a process that only deploys this class needs none of it. vLLM and torch
        # read the actor's runtime environment when they are imported, see
        # `services.replica.deployment`.
        with collector_off():
            from rapo.inference.engine_thread import EngineThread
            from rapo.inference.readout_engine import ReadoutEngine
            from rapo.inference.types import ReadoutRequest, ReadoutResult

            here = str(local_copy(model_dir, config.storage.scratch))
            self._engine: EngineThread[ReadoutRequest, ReadoutResult] = EngineThread(
                lambda: ReadoutEngine(here, config.rollout.engine, dtype=config.policy.dtype, seed=config.run.seed),
                batch_wait_s=0.0,
            )
            encoder = await asyncio.wrap_future(self._engine.started)
            assert isinstance(encoder, ReadoutEngine)
        self._scorer = ImageScorer(self._engine, encoder, config)
        await self._warm_up()
        self._observe = _observer()

    async def Score(self, request: scorer_pb2.ScoreRequest, grpc_context: CallContext) -> scorer_pb2.ScoreResponse:
        """The score of one image; a failure is in the context's status."""
        request_id = request_id_or_new(request.request_id)
        try:
            spec = self._admit(request, grpc_context)
            scored = await self._scorer.score(request.image, spec, caller=_value(grpc_context, CALLER_KEY))
            self._observe(scored)
            return self._response(request, scored, spec, request_id)
        except Exception as error:  # noqa: BLE001 - becomes the call's status
            _set_status(grpc_context, _refusal(error, request_id))
        return scorer_pb2.ScoreResponse()

    async def Explain(
        self, request: scorer_pb2.ScoreRequest, grpc_context: CallContext
    ) -> AsyncGenerator[scorer_pb2.ExplainResponse, None]:
        """The rationale in pieces, then the score.

        After a failure the last message has no part: Serve passes the context's status on only
        together with a message.
        """
        request_id = request_id_or_new(request.request_id)
        try:
            spec = self._admit(request, grpc_context)
            async with aclosing(self._explain(request.image, spec, _value(grpc_context, CALLER_KEY))) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        yield scorer_pb2.ExplainResponse(rationale_delta=part)
                    else:
                        response = self._response(request, part, spec, request_id)
                        yield scorer_pb2.ExplainResponse(response=response)
        except Exception as error:  # noqa: BLE001 - becomes the call's status
            _set_status(grpc_context, _refusal(error, request_id))
            yield scorer_pb2.ExplainResponse()

    async def GetModel(
        self, request: scorer_pb2.GetModelRequest, grpc_context: CallContext
    ) -> scorer_pb2.GetModelResponse:
        """The model and its limits; a failure is in the context's status."""
        try:
            self._check_secret(grpc_context)
        except Refused as error:
            _set_status(grpc_context, error.refusal)
            return scorer_pb2.GetModelResponse()
        limits, settings = self.config.image, self.config.serve
        others = [name for name in READOUTS if name != settings.readout]
        return scorer_pb2.GetModelResponse(
            model_version=self.model_version,
            readouts=[READOUT_NUMBERS[name] for name in (settings.readout, *others)],
            min_score=0.0,
            max_score=1.0,
            max_image_bytes=limits.max_bytes,
            max_image_pixels=limits.max_pixels,
            min_image_side=limits.min_side,
            max_completion_tokens=self.config.policy.max_completion_tokens,
            native_scales=[scorer_pb2.NativeScale(name=s.name, min=s.low, max=s.high) for s in self.scales.values()],
            models=[self.model_version],
            limits=scorer_pb2.Limits(max_samples=settings.max_samples),
            interval=calibration_message(self.calibration),
        )

    async def check_health(self) -> None:
        """Serve's own probe; Serve replaces the replica if it raises."""
        if not self._engine.alive:
            raise RuntimeError("the engine has died")
        if self._engine.step_seconds > _HUNG_S:
            raise RuntimeError(f"the engine has been at one step for {self._engine.step_seconds:.0f} s")

    async def statistics(self) -> dict[str, int]:
        """Images in the engine, and images whose callers went away. Through Serve's handle, not
        over gRPC."""
        return {"under_way": self._engine.in_flight, "cancelled": self._scorer.cancelled}

    def __del__(self) -> None:
        # Serve calls this when it stops a replica.
        if (scorer := getattr(self, "_scorer", None)) is not None:
            scorer.close()

    def _admit(self, request: scorer_pb2.ScoreRequest, context: CallContext) -> ReadoutSpec:
        self._check_secret(context)
        return readout_of(request, self.config.serve, self.model_version, self.scales)

    def _response(
        self, request: scorer_pb2.ScoreRequest, scored: ScoredImage, spec: ReadoutSpec, request_id: str
    ) -> scorer_pb2.ScoreResponse:
        return response_of(request, scored, spec, request_id, self.model_version, self.scales, self.calibration)

    def _check_secret(self, context: CallContext) -> None:
        if not hmac.compare_digest(_value(context, SECRET_KEY).encode(), self._secret):
            words = "calls must come through the gateway"
            raise Refused(Refusal(grpc.StatusCode.PERMISSION_DENIED, words, "not_gateway"))

    async def _explain(self, data: bytes, spec: ReadoutSpec, caller: str) -> AsyncGenerator[str | ScoredImage, None]:
        """Pieces of the rationale while it is written, then the scored image. A rationale that
        comes whole is one piece."""
        loop = asyncio.get_running_loop()
        written: asyncio.Queue[list[int] | None] = asyncio.Queue()

        def on_tokens(token_ids: list[int] | None) -> None:
            loop.call_soon_threadsafe(written.put_nowait, token_ids)

        scoring = asyncio.create_task(self._scorer.score(data, spec, on_tokens, caller=caller))
        scoring.add_done_callback(lambda _: on_tokens(None))
        try:
            stream, ids, sent = RationaleStream(), list[int](), ""
            while (new := await written.get()) is not None:
                ids += new
                if piece := stream.take(self._scorer.text(ids)):
                    sent += piece
                    yield piece
            scored = await scoring
            # A forced answer may follow less of the rationale than was sent already.
            if scored.rationale.startswith(sent) and (rest := scored.rationale.removeprefix(sent)):
                yield rest
            yield scored
        finally:
            scoring.cancel()

    async def _warm_up(self) -> None:
        """Run every readout once, so that the first caller does not wait for lazy set-up. The
        model's answer does not matter."""
        side = max(self.config.image.min_side, 84)
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (120, 130, 140)).save(buffer, "PNG")
        for readout in READOUTS:
            try:
                await self._scorer.score(buffer.getvalue(), ReadoutSpec(readout, self.config.serve.samples))
            except Refused as error:
                if error.refusal.code != grpc.StatusCode.FAILED_PRECONDITION:
                    raise


def _value(context: CallContext, name: str) -> str:
    value = next((value for key, value in context.invocation_metadata() if key == name), "")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _observer() -> Callable[[ScoredImage], None]:
    """Reports through Ray's metrics what no response holds: how much of the model's answer is no
    number. A model that drifts away from the form shows there first."""
    from ray.serve.metrics import Histogram

    outside = Histogram(
        "rapo_outside_mass",
        description="Probability of an answer that is no number, per image.",
        boundaries=list(_OUTSIDE_BOUNDS),
    )

    def observe(scored: ScoredImage) -> None:
        if scored.outside is not None and not scored.cached:
            outside.observe(scored.outside)

    return observe


def _refusal(error: Exception, request_id: str) -> Refusal:
    if isinstance(error, Refused):
        return error.refusal
    logger.error("request %s failed", request_id, exc_info=error)
    words = f"the scorer failed; its log has the details of request {request_id}"
    return Refusal(grpc.StatusCode.INTERNAL, words, "internal")


def _set_status(context: CallContext, refusal: Refusal) -> None:
    # Serve logs an exception as a failed call, but not a status with an empty message.
    context.set_code(refusal.code)
    context.set_details(refusal.words)
    field = [(FIELD_KEY, refusal.field)] if refusal.field else []
    context.set_trailing_metadata([(REASON_KEY, refusal.reason), *field])
