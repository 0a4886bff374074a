"""The scorer: a Serve deployment around one vLLM engine. Method names are the RPC names of
`AestheticScorer`.

What holds: a call without the gateway's secret learns nothing; neither tracebacks nor paths nor
anything of an image reach a caller or the log. What is done with an image is in
`services.replica.image_scorer`.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from PIL import Image

from rapo.answers.rationale_stream import RationaleStream
from rapo.answers.readout_names import READOUTS
from rapo.config import Config
from rapo.models.card import Card
from rapo.v1 import scorer_pb2
from rapo.wire import READOUT_NUMBERS, REASON_KEY
from services.names import FIELD_KEY, SECRET_KEY, request_id_or_new
from services.replica.convert import response_of, wanted_of
from services.replica.image_scorer import ImageScorer, ReadoutSpec, ScoredImage
from services.statuses import Refusal, Refused

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext

logger = logging.getLogger("ray.serve")

#: An engine that has been at one step for so long is taken for hung, and its replica replaced.
_HUNG_S = 120.0

_OUTSIDE_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95)


class Scorer:
    """One replica: one engine. Ready only after a warm-up of every readout."""

    # Serve awaits the constructor.
    async def __init__(self, config: Config, model_dir: str, card: Card, secret: str) -> None:  # type: ignore[misc]
        self.config = config
        self.model_version = card.version
        self.scales = {scale.name: scale for scale in card.scales}
        self._secret = secret.encode()
        # The environment keeps vLLM from setting this itself (`services.replica.deployment`); its
        # CPU build warns once per request.
        logging.getLogger("vllm").setLevel(logging.ERROR)
        # Here and not above: whoever deploys this class needs none of it. The environment that vLLM
        # and torch read when they are imported is set by the actor's runtime environment, see
        # `services.replica.deployment`.
        from rapo.inference.engine_thread import EngineThread
        from rapo.inference.readout_engine import ReadoutEngine, ReadoutRequest, ReadoutResult

        self._loop: EngineThread[ReadoutRequest, ReadoutResult] = EngineThread(
            lambda: ReadoutEngine(model_dir, config.rollout.engine, dtype=config.policy.dtype, seed=config.run.seed),
            linger_s=0.0,
        )
        reader: Any = await asyncio.wrap_future(self._loop.started)
        self._judge = ImageScorer(self._loop, reader, config, card.version)
        await self._warm_up()
        self._observe = _observer()

    async def Score(self, request: Any, grpc_context: RayServegRPCContext) -> Any:
        request_id = request_id_or_new(request.request_id)
        try:
            wanted = self._admit(request, grpc_context)
            judgement = await self._judge.judge(request.image, wanted)
            self._observe(judgement)
            return response_of(request, judgement, wanted, request_id, self.model_version, self.scales)
        except Exception as error:  # noqa: BLE001 - becomes the call's status
            _set_status(grpc_context, _refusal(error, request_id))
        return scorer_pb2.ScoreResponse()

    async def Explain(self, request: Any, grpc_context: RayServegRPCContext) -> AsyncGenerator[Any, None]:
        """Where it fails, the last message has no part: Serve lets a status of our own out only
        with a message."""
        request_id = request_id_or_new(request.request_id)
        try:
            wanted = self._admit(request, grpc_context)
            async with aclosing(self._explain(request.image, wanted)) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        yield scorer_pb2.ExplainResponse(rationale_delta=part)
                    else:
                        response = response_of(request, part, wanted, request_id, self.model_version, self.scales)
                        yield scorer_pb2.ExplainResponse(response=response)
        except Exception as error:  # noqa: BLE001 - becomes the call's status
            _set_status(grpc_context, _refusal(error, request_id))
            yield scorer_pb2.ExplainResponse()

    async def GetModel(self, request: Any, grpc_context: RayServegRPCContext) -> Any:
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
        )

    async def check_health(self) -> None:
        """Serve's own probe; where it raises, Serve replaces the replica."""
        if not self._loop.alive:
            raise RuntimeError("the engine has died")
        if self._loop.step_seconds > _HUNG_S:
            raise RuntimeError(f"the engine has been at one step for {self._loop.step_seconds:.0f} s")

    async def statistics(self) -> dict[str, int]:
        """Images in the engine, and images whose callers went away. Through Serve's handle, not
        over gRPC."""
        return {"under_way": self._loop.under_way, "cancelled": self._judge.cancelled}

    def __del__(self) -> None:
        # Serve calls this when it stops a replica.
        if (judge := getattr(self, "_judge", None)) is not None:
            judge.close()

    def _admit(self, request: Any, context: RayServegRPCContext) -> ReadoutSpec:
        self._check_secret(context)
        return wanted_of(request, self.config.serve, self.model_version, self.scales)

    def _check_secret(self, context: RayServegRPCContext) -> None:
        given = next((value for key, value in context.invocation_metadata() if key == SECRET_KEY), "")
        given = given if isinstance(given, bytes) else given.encode()
        if not hmac.compare_digest(given, self._secret):
            words = "calls must come through the gateway"
            raise Refused(Refusal(grpc.StatusCode.PERMISSION_DENIED, words, "not_gateway"))

    async def _explain(self, data: bytes, wanted: ReadoutSpec) -> AsyncGenerator[str | ScoredImage, None]:
        """Pieces of the rationale while it is written, then the judgement. What comes whole is one
        piece."""
        loop = asyncio.get_running_loop()
        written: asyncio.Queue[list[int] | None] = asyncio.Queue()

        def tell(token_ids: list[int] | None) -> None:
            loop.call_soon_threadsafe(written.put_nowait, token_ids)

        judging = asyncio.create_task(self._judge.judge(data, wanted, tell))
        judging.add_done_callback(lambda _: tell(None))
        try:
            stream, ids, told = RationaleStream(), list[int](), ""
            while (new := await written.get()) is not None:
                ids += new
                if piece := stream.take(self._judge.text(ids)):
                    told += piece
                    yield piece
            judgement = await judging
            if rest := judgement.rationale.removeprefix(told):
                yield rest
            yield judgement
        finally:
            judging.cancel()

    async def _warm_up(self) -> None:
        """Every readout once, so that the first caller does not wait for lazy set-up. What the
        model says does not matter."""
        side = max(self.config.image.min_side, 84)
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (120, 130, 140)).save(buffer, "PNG")
        for readout in READOUTS:
            try:
                await self._judge.judge(buffer.getvalue(), ReadoutSpec(readout, self.config.serve.samples))
            except Refused as error:
                if error.refusal.code != grpc.StatusCode.FAILED_PRECONDITION:
                    raise


def _observer() -> Callable[[ScoredImage], None]:
    """Reports through Ray's metrics what no response holds: how much of the model's answer is no
    number of two decimals. A model that drifts away from the form shows there first."""
    from ray.serve.metrics import Histogram

    outside = Histogram(
        "rapo_outside_mass",
        description="Probability of an answer that is no number of two decimals, per image.",
        boundaries=list(_OUTSIDE_BOUNDS),
    )

    def observe(judgement: ScoredImage) -> None:
        if judgement.outside is not None and not judgement.cached:
            outside.observe(judgement.outside)

    return observe


def _refusal(error: Exception, request_id: str) -> Refusal:
    if isinstance(error, Refused):
        return error.refusal
    logger.error("request %s failed", request_id, exc_info=error)
    words = f"the scorer failed; its log has the details of request {request_id}"
    return Refusal(grpc.StatusCode.INTERNAL, words, "internal")


def _set_status(context: RayServegRPCContext, refusal: Refusal) -> None:
    # Setting a status and returning an empty message keeps Serve from logging every refusal as a
    # failed call.
    context.set_code(refusal.code)
    context.set_details(refusal.words)
    field = [(FIELD_KEY, refusal.field)] if refusal.field else []
    context.set_trailing_metadata([(REASON_KEY, refusal.reason), *field])
