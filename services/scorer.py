"""The scorer: a Serve deployment around one vLLM engine. Method names are the RPC names of `AestheticScorer`.

What holds: decoding is greedy, so that a picture's score does not depend on what else is in the batch; a score is
never made up (see the status codes in scorer.proto); a call without the gateway's secret learns nothing; neither
tracebacks nor paths nor anything of a picture reach a caller or the log.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import logging
import re
import uuid
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from PIL import Image

from rapo.answer import Answer, parse_answer
from rapo.config import Config
from rapo.errors import ImageError
from rapo.images import decode_image
from rapo.v1 import scorer_pb2
from services.gateway import REASON_KEY, SECRET_KEY

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext

logger = logging.getLogger("ray.serve")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_BANNED = -100.0  # added to a logit: the same mask as in training

_WHY = {
    "truncated": "it reached the token limit",
    "no_think": "it has no rationale",
    "no_answer": "it has no answer",
    "repeated_tag": "a tag occurs twice",
    "extra_text": "there is text outside the tags",
    "not_a_number": "its answer is not a number",
    "out_of_range": "its answer is outside 0 to 1",
}


class Refusal(Exception):
    """A status that the caller is to see: `code`, words for people, and one word for machines."""

    def __init__(self, code: grpc.StatusCode, details: str, reason: str) -> None:
        super().__init__(details)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Generated:
    """One greedy completion: its parsed answer, its tokens, and the engine's times in milliseconds."""

    answer: Answer
    tokens: int
    queue_ms: float
    generate_ms: float


class Scorer:
    """One replica: one engine. Ready only after a warm-up generation."""

    # Serve awaits the constructor; the engine must be made inside the replica's event loop.
    async def __init__(self, config: Config, model_dir: str, model_version: str, secret: str) -> None:  # type: ignore[misc]
        self.config = config
        self.model_version = model_version
        self._secret = secret.encode()
        # Here and not above: whoever deploys this class needs none of it. The environment that vLLM and torch read
        # when they are imported is set by the actor's runtime environment, see `services.app`.
        from vllm import AsyncEngineArgs, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError

        from rapo.inference.engine import engine_arguments
        from rapo.policy.processing import PolicyProcessor

        self._engine_dead: type[Exception] = EngineDeadError
        self._processor = PolicyProcessor(model_dir)
        self._sampling = SamplingParams(
            temperature=0.0,
            max_tokens=config.policy.max_completion_tokens,
            stop_token_ids=self._processor.stop_token_ids,
            logit_bias=dict.fromkeys(self._processor.banned_token_ids, _BANNED),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        arguments = engine_arguments(
            model_dir, config.rollout.engine, dtype=config.policy.dtype, seed=config.run.seed, worker_extension=False
        )
        # Request timings come from the engine's statistics.
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**(arguments | {"disable_log_stats": False})))
        await self._warm_up()

    async def Score(self, request: Any, grpc_context: RayServegRPCContext) -> Any:
        request_id = request.request_id if _REQUEST_ID.fullmatch(request.request_id) else uuid.uuid4().hex
        try:
            self._admit(grpc_context)
            return await self._score(request, request_id)
        except Refusal as refusal:
            _set_status(grpc_context, refusal)
        except Exception:
            logger.exception("request %s failed", request_id)
            words = f"the scorer failed; its log has the details of request {request_id}"
            _set_status(grpc_context, Refusal(grpc.StatusCode.INTERNAL, words, "internal"))
        return scorer_pb2.ScoreResponse()

    async def GetModel(self, request: Any, grpc_context: RayServegRPCContext) -> Any:
        try:
            self._admit(grpc_context)
        except Refusal as refusal:
            _set_status(grpc_context, refusal)
            return scorer_pb2.GetModelResponse()
        limits = self.config.image
        return scorer_pb2.GetModelResponse(
            model_version=self.model_version,
            readouts=[scorer_pb2.READOUT_GREEDY],
            min_score=0.0,
            max_score=1.0,
            max_image_bytes=limits.max_bytes,
            max_image_pixels=limits.max_pixels,
            min_image_side=limits.min_side,
            max_completion_tokens=self.config.policy.max_completion_tokens,
        )

    async def check_health(self) -> None:
        """Serve's own probe; where it raises, Serve replaces the replica."""
        await self._engine.check_health()

    def __del__(self) -> None:
        # Serve calls this when it stops a replica; the engine has a process of its own that must go too.
        if (engine := getattr(self, "_engine", None)) is not None:
            engine.shutdown()

    def _admit(self, context: RayServegRPCContext) -> None:
        given = next((value for key, value in context.invocation_metadata() if key == SECRET_KEY), "")
        given = given if isinstance(given, bytes) else given.encode()
        if not hmac.compare_digest(given, self._secret):
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "calls must come through the gateway", "not_gateway")

    async def _score(self, request: Any, request_id: str) -> Any:
        started = perf_counter()
        try:
            # In a thread: a large picture takes longer than a decoding step of the engine.
            image = await asyncio.to_thread(decode_image, request.image, self.config.image)
        except ImageError as error:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, str(error), error.reason) from error
        decode_ms = 1000 * (perf_counter() - started)
        generated = await self._generate(image, request_id)
        answer = generated.answer
        if answer.score is None:
            reason = answer.reason or "no_answer"
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the model's answer holds no score: {_WHY[reason]} ({reason})",
                reason,
            )
        return scorer_pb2.ScoreResponse(
            score=answer.score,
            rationale="" if request.omit_rationale else answer.rationale,
            model_version=self.model_version,
            readout=scorer_pb2.READOUT_GREEDY,
            request_id=request_id,
            timings=scorer_pb2.Timings(
                decode_ms=decode_ms,
                queue_ms=generated.queue_ms,
                generate_ms=generated.generate_ms,
                completion_tokens=generated.tokens,
            ),
        )

    async def _generate(self, image: Image.Image, request_id: str) -> Generated:
        prompt = {"prompt_token_ids": self._processor.prompt_token_ids, "multi_modal_data": {"image": image}}
        # Callers may repeat an id while its first call is still running; the engine wants each one once.
        engine_id = f"{request_id}-{uuid.uuid4().hex}"
        started, final = perf_counter(), None
        try:
            async for output in self._engine.generate(prompt, self._sampling, engine_id):
                final = output
        except self._engine_dead as error:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "the engine is restarting; try again", "engine_dead") from error
        total_ms = 1000 * (perf_counter() - started)
        if final is None:
            raise RuntimeError("the engine ended a request without an output")
        completion = final.outputs[0]
        text = self._processor.decode(np.asarray(completion.token_ids, dtype=np.int32))
        answer = parse_answer(text, truncated=completion.finish_reason == "length")
        stats = final.metrics
        generate_ms = 1000 * (stats.last_token_ts - stats.scheduled_ts) if stats is not None else total_ms
        return Generated(answer, len(completion.token_ids), max(total_ms - generate_ms, 0.0), generate_ms)

    async def _warm_up(self) -> None:
        """One generation through the whole path, so that the first caller does not wait for lazy set-up."""
        side = max(self.config.image.min_side, 84)
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (120, 130, 140)).save(buffer, "PNG")
        await self._generate(decode_image(buffer.getvalue(), self.config.image), "warm-up")


def _set_status(context: RayServegRPCContext, refusal: Refusal) -> None:
    # Setting a status and returning an empty message keeps Serve from logging every refusal as a failed call.
    context.set_code(refusal.code)
    context.set_details(str(refusal))
    context.set_trailing_metadata([(REASON_KEY, refusal.reason)])
