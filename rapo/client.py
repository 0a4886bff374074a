"""The gRPC client of the scoring service. It needs grpcio and protobuf, nothing else.

    with ScorerClient("127.0.0.1:50051") as client:
        print(client.score("photo.jpg").score)

Calls that find the service busy or restarting (RESOURCE_EXHAUSTED, UNAVAILABLE) are repeated by gRPC itself with
growing pauses, which is safe because scoring changes nothing on the server. One client may be used by many threads.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from rapo.errors import ImageError, RapoError, ServiceError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc

DEFAULT_TARGET = "127.0.0.1:50051"

#: An image to score: encoded bytes, or the path of a file that is read here and sent as bytes.
Image = bytes | str | os.PathLike[str]

# gRPC keeps a message for a repeat only up to this size; its own default of 256 KiB would turn retries off for
# nearly every photograph, without a word.
_RETRY_BUFFER_BYTES = 256 * 2**20


class CallError(ServiceError):
    """A call that the service refused or that never reached it. `code` is the gRPC status name, such as UNAVAILABLE;
    `reason` is the service's one-word reason where it gave one; `request_id` finds the call in the service's log."""

    def __init__(self, message: str, *, code: str, reason: str | None = None, request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        return _call_error, (str(self), self.code, self.reason, self.request_id)


def _call_error(message: str, code: str, reason: str | None, request_id: str) -> CallError:
    return CallError(message, code=code, reason=reason, request_id=request_id)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One answer: `score` in [0, 1], and where the server's time went, in milliseconds."""

    score: float
    rationale: str
    model_version: str
    readout: str
    request_id: str
    decode_ms: float
    queue_ms: float
    generate_ms: float
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image of many: exactly one of `result` and `error` is set."""

    image: Path
    result: ScoreResult | None = None
    error: RapoError | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model answers, the readouts it offers (the default first), the range of its scores, and its limits."""

    model_version: str
    readouts: tuple[str, ...]
    score_range: tuple[float, float]
    max_image_bytes: int
    max_image_pixels: int
    min_image_side: int
    max_completion_tokens: int


class ScorerClient:
    """A client of one scoring service.

    `timeout` is the limit of one call in seconds, its repeats included. `attempts` counts the first try too (1: no
    repeats; gRPC caps it at 5); pauses grow from `initial_backoff` to `max_backoff` seconds, each with random jitter.
    The connection is made at the first call.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout: float = 60.0,
        *,
        attempts: int = 5,
        initial_backoff: float = 0.2,
        max_backoff: float = 5.0,
    ) -> None:
        if not 1 <= attempts <= 5:
            raise ValueError(f"attempts must be 1 to 5, not {attempts}")
        self.target = target
        self.timeout = timeout
        self._channel = grpc.insecure_channel(target, options=_options(attempts, initial_backoff, max_backoff))
        self._stub = scorer_pb2_grpc.AestheticScorerStub(self._channel)

    def score(self, image: Image, *, rationale: bool = True, request_id: str = "") -> ScoreResult:
        """Score one image.

        Raises `ImageError` where a path cannot be read, and `CallError` with the server's words where the service
        refuses: INVALID_ARGUMENT for an unusable image, FAILED_PRECONDITION where the model's answer held no score.
        """
        data = image if isinstance(image, bytes) else _read(Path(image))
        request_id = request_id or uuid.uuid4().hex
        request = scorer_pb2.ScoreRequest(image=data, request_id=request_id, omit_rationale=not rationale)
        reply = self._call(self._stub.Score, request, request_id)
        return ScoreResult(
            score=reply.score,
            rationale=reply.rationale,
            model_version=reply.model_version,
            readout=_readout(reply.readout),
            request_id=reply.request_id,
            decode_ms=reply.timings.decode_ms,
            queue_ms=reply.timings.queue_ms,
            generate_ms=reply.timings.generate_ms,
            completion_tokens=reply.timings.completion_tokens,
        )

    def score_many(
        self, paths: Iterable[str | os.PathLike[str]], concurrency: int = 8, *, rationale: bool = True
    ) -> Generator[Outcome, None, None]:
        """Score files, `concurrency` at a time, and yield an outcome per file in the order of `paths`.

        A file that fails never stops the others. `paths` may be endless: at most twice `concurrency` are ahead of
        what was yielded.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")

        def outcome(path: Path) -> Outcome:
            try:
                return Outcome(path, result=self.score(path, rationale=rationale))
            except RapoError as error:
                return Outcome(path, error=error)

        pending: deque[Future[Outcome]] = deque()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="rapo-client")
        try:
            for path in paths:
                pending.append(pool.submit(outcome, Path(path)))
                if len(pending) >= 2 * concurrency:
                    yield pending.popleft().result()  # bounded: every call has a time limit
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def model(self) -> ModelInfo:
        """Ask which model answers. Raises `CallError` where the service cannot be reached."""
        reply = self._call(self._stub.GetModel, scorer_pb2.GetModelRequest(), "")
        return ModelInfo(
            model_version=reply.model_version,
            readouts=tuple(_readout(value) for value in reply.readouts),
            score_range=(reply.min_score, reply.max_score),
            max_image_bytes=reply.max_image_bytes,
            max_image_pixels=reply.max_image_pixels,
            min_image_side=reply.min_image_side,
            max_completion_tokens=reply.max_completion_tokens,
        )

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], request: Any, request_id: str) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise _translate(error, self.target, self.timeout, request_id) from error


def _options(attempts: int, initial_backoff: float, max_backoff: float) -> list[tuple[str, Any]]:
    method: dict[str, Any] = {"name": [{"service": "rapo.v1.AestheticScorer"}]}
    if attempts > 1:
        method["retryPolicy"] = {
            "maxAttempts": attempts,
            "initialBackoff": f"{initial_backoff:.3f}s",
            "maxBackoff": f"{max_backoff:.3f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        }
    return [
        ("grpc.service_config", json.dumps({"methodConfig": [method]})),
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}", reason="unreadable") from error


def _readout(value: int) -> str:
    # A newer server may know readouts that this client does not.
    names = scorer_pb2.Readout.DESCRIPTOR.values_by_number
    return names[value].name.removeprefix("READOUT_").lower() if value in names else f"readout-{value}"


def _translate(error: grpc.RpcError, target: str, timeout: float, request_id: str) -> CallError:
    code: str = error.code().name
    details = error.details() or "no details"
    reason = next((value for key, value in error.trailing_metadata() or () if key == "rapo-reason"), None)
    if code == "UNAVAILABLE":
        message = (
            f"no scoring service answers at {target} ({details}). Start one with `rapo serve`, or give its address."
        )
    elif code == "DEADLINE_EXCEEDED":
        message = f"{target} gave no answer within {timeout:g} s ({details}). Allow more time, or fewer calls at once."
    else:
        message = f"{details} ({code})"
    return CallError(message, code=code, reason=reason, request_id=request_id)
