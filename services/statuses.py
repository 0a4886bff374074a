"""Refusal: why there is no answer, as a gRPC status with google.rpc details.

- Every status carries ErrorInfo, and its reason also as trailing metadata.
- An INVALID_ARGUMENT names the field in BadRequest.
- A status after which a retry may help says when in RetryInfo.
- Only words of the deployment or the gateway reach a caller. Words of Ray or gRPC (tracebacks,
  paths, addresses) go to the log and are replaced here.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from rapo.wire import DOMAIN, REASON_KEY
from services.names import FIELD_KEY

#: Trailing metadata: keys with text, or with bytes if they end in `-bin`.
Trailing = tuple[tuple[str, str | bytes], ...]

# The delay that RetryInfo names if a refusal knows none, in seconds.
_RETRY_S = {grpc.StatusCode.UNAVAILABLE: 1.0, grpc.StatusCode.RESOURCE_EXHAUSTED: 0.5}

# A status is in the headers twice, and they have a limit of their own (8 KiB by default).
_MAX_WORDS = 400

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer. `field` is the request's field at fault; `retry_s` is None if no
    delay is known."""

    code: grpc.StatusCode
    words: str
    reason: str
    field: str = ""
    retry_s: float | None = None

    def status(self) -> status_pb2.Status:
        """As google.rpc.Status, with its details."""
        words = self.words[:_MAX_WORDS]
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code.name), message=words)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN))
        if self.code == grpc.StatusCode.INVALID_ARGUMENT:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=words, reason=self.reason
            )
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        if (delay := self.retry_s if self.retry_s is not None else _RETRY_S.get(self.code)) is not None:
            whole = math.floor(delay)
            pause = Duration(seconds=whole, nanos=int((delay - whole) * 1e9))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=pause))
        return status

    def trailing(self) -> Trailing:
        """As the trailing metadata of a call that fails with it."""
        return ((REASON_KEY, self.reason), *rpc_status.to_status(self.status()).trailing_metadata)


class Refused(Exception):
    """A refusal on its way to the caller: it becomes the call's status or the image's error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.words)
        self.refusal = refusal


#: For an image that finds no room in a queue.
QUEUE_FULL = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full; try again later", "queue_full")

#: For an image that has no answer by its deadline.
TIME_OVER = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer within the time limit", "deadline")

# What a caller reads if Ray or gRPC set the status rather than the deployment.
_REPLACED = {
    refusal.code: refusal
    for refusal in (
        QUEUE_FULL,
        TIME_OVER,
        Refusal(grpc.StatusCode.CANCELLED, "the call was cancelled", "cancelled"),
    )
}


def invalid(field: str, words: str, reason: str) -> Refused:
    """The caller's mistake, in the field of the request that `field` names."""
    return Refused(Refusal(grpc.StatusCode.INVALID_ARGUMENT, words, reason, field))


def outward(error: grpc.aio.AioRpcError) -> Refusal:
    """The part of an upstream's status that a caller may see."""
    marks = {key: str(value) for key, value in error.trailing_metadata() or ()}
    code = error.code()
    if REASON_KEY in marks:
        return Refusal(code, error.details() or "", marks[REASON_KEY], marks.get(FIELD_KEY, ""))
    if code in _REPLACED:
        return _REPLACED[code]
    # The deployment marks every status of its own. What is left is Serve's: no replica yet, or one
    # that died during the call. Both pass, and scoring may be repeated, so the caller may retry.
    logger.warning("upstream answered %s: %s", code.name, error.details())
    return Refusal(grpc.StatusCode.UNAVAILABLE, "the scorer is starting or restarting; try again", "restarting")


async def abort(context: grpc.aio.ServicerContext, refusal: Refusal) -> None:
    """End the call with this status. Never returns."""
    await context.abort(refusal.code, refusal.words[:_MAX_WORDS], refusal.trailing())
