"""The gRPC client of the scoring service. It needs grpcio and protobuf, nothing else.

    with ScorerClient("127.0.0.1:50051") as client:
        print(client.score("photo.jpg").score)

One client may be used by many threads. `rapo.client.aio` has its twin for asyncio.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import count
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from rapo.client.connection import DEFAULT_TARGET, Connection, Pem, RetryPolicy
from rapo.client.errors import CallError, FieldViolation, from_rpc
from rapo.client.stream import BulkStream, ended_early
from rapo.client.types import (
    Dimension,
    Image,
    Interval,
    ModelInfo,
    NativeScale,
    Outcome,
    Ranking,
    ScoreOptions,
    ScoreResult,
    batch_request,
    batch_results,
    check_message_size,
    model_info,
    outcome,
    rank_request,
    ranking,
    read_image,
    score_request,
    score_result,
)
from rapo.errors import ImageError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc

__all__ = ["DEFAULT_TARGET", "CallError", "Dimension", "FieldViolation", "Image", "Interval", "ModelInfo", "NativeScale",
           "Outcome", "Ranking", "ScoreOptions", "ScoreResult", "ScorerClient"]  # fmt: skip

#: Images under way in a bulk job where neither the caller nor the service sets a number.
IN_FLIGHT = 32


class ScorerClient:
    """A client of one scoring service. Connections are made at the first call.

    `timeout` is the limit of one call in seconds, repeats included; of a bulk job it is the longest
    silence. The address, TLS and token arguments are those of `rapo.client.connection.Connection`,
    which says who repeats what; `attempts` counts the first try too, up to 5, and 1 turns every
    repeat off. `channels` is the number of connections that calls take in turn: one is enough
    unless many large images travel at once.

    Raises `ConfigError` for arguments that cannot work. Every call raises `CallError` with the
    service's words where it refuses or cannot be reached, and `ImageError` where a path cannot be
    read.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout: float = 60.0,
        *,
        tls: bool = False,
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        server_name: str | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        attempts: int = 5,
        initial_backoff: float = 0.2,
        max_backoff: float = 5.0,
        channels: int = 1,
    ) -> None:
        policy = RetryPolicy(attempts, initial_backoff, max_backoff)
        self._connection = Connection(target, policy, tls, ca, certificate, key, server_name, token, token_file)
        self.target = target
        self.timeout = timeout
        credentials = self._connection.credentials()
        self._channels = [_open(self._connection, credentials, number) for number in range(max(1, channels))]
        self._stubs = [scorer_pb2_grpc.AestheticScorerStub(channel) for channel in self._channels]
        self._turn = count()

    def score(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> ScoreResult:
        """Score one image.

        The error's code is INVALID_ARGUMENT for an unusable image, FAILED_PRECONDITION where the
        model's answer held no score.
        """
        request_id = request_id or uuid.uuid4().hex
        request = score_request(read_image(image), request_id, **options)
        return score_result(self._call("Score", request, request_id, timeout))

    def score_batch(
        self, images: Sequence[Image], *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> tuple[Outcome, ...]:
        """Score a few images in one call, at most `ModelInfo.max_batch`; an outcome for each, in
        their order.

        Images that the service asks to send again later are, as far as the time limit allows.
        """
        limit = timeout if timeout is not None else self.timeout
        deadline = time.monotonic() + limit
        request_id = uuid.uuid4().hex
        outcomes, request = batch_request(images, request_id, options)
        tries = 0
        while request.requests:
            reply = self._call("ScoreBatch", request, request_id, deadline - time.monotonic())
            tries += 1
            again = batch_results(outcomes, images, request, reply)
            pauses = [
                self._connection.policy.pause(error, tries, deadline - time.monotonic()) for error in again.values()
            ]
            if not pauses or None in pauses:
                break
            time.sleep(max(pause for pause in pauses if pause is not None))
            request = scorer_pb2.ScoreBatchRequest(requests=[r for r in request.requests if r.request_id in again])
        return tuple(outcomes[index] for index in range(len(images)))

    def score_many(
        self, images: Iterable[Image], in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> Generator[Outcome, None, None]:
        """Score any number of images over one stream, and yield an outcome per image in the order
        of `images`.

        As `stream`, but for the order: an image that takes long holds back those after it, of which
        at most four times `in_flight` are kept. `images` may be endless.
        """
        ready: dict[int, Outcome] = {}
        head = 0
        with closing(self._bulk(images, in_flight, lambda window: len(ready) < 4 * window, options)) as outcomes:
            for item in outcomes:
                ready[item.index] = item
                while head in ready:
                    yield ready.pop(head)
                    head += 1

    def stream(
        self, images: Iterable[Image], in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> Generator[Outcome, None, None]:
        """Score any number of images over one stream, and yield an outcome for each as it is ready,
        in any order.

        An image that fails never stops the others. At most `in_flight` are read and under way at a
        time (default: as many as the service takes); nothing is sent while the caller does not take
        outcomes. Where the stream breaks, what is unanswered is sent again over a new one; no image
        is yielded twice. Raises `CallError` where the service refuses the stream, or answers
        nothing for `timeout` seconds.
        """
        return self._bulk(images, in_flight, lambda window: True, options)

    def rank(
        self,
        images: Sequence[Image],
        *,
        readout: str | None = None,
        model_version: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Ranking:
        """Order 2 to `ModelInfo.max_batch` images from best to worst, with the probability that
        each is preferred to each."""
        request_id = request_id or uuid.uuid4().hex
        request = rank_request(images, request_id, readout, model_version)
        return ranking(self._call("Rank", request, request_id, timeout), images)

    def explain(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> Generator[str | ScoreResult, None, None]:
        """Yield the rationale piece by piece while the model writes it, then the `ScoreResult`,
        always last."""
        request_id = request_id or uuid.uuid4().hex
        request = score_request(read_image(image), request_id, **options)
        limit = timeout if timeout is not None else self.timeout
        deadline = time.monotonic() + limit
        for tries in count(1):
            begun = False
            call = self._stub.Explain(request, timeout=max(0.0, deadline - time.monotonic()), metadata=self._metadata())
            try:
                for part in call:
                    begun = True
                    if part.WhichOneof("part") == "response":
                        yield score_result(part.response)
                        return
                    yield part.rationale_delta
                raise ended_early()
            except grpc.RpcError as error:
                failure = self._translate(error, limit, request_id)
                pause = None if begun else self._connection.policy.pause(failure, tries, deadline - time.monotonic())
                if pause is None:
                    raise failure from error
                time.sleep(pause)
            finally:
                call.cancel()

    def model(self, version: str = "", *, timeout: float | None = None) -> ModelInfo:
        """Ask which model answers (the default, or `version`), and what it takes."""
        return model_info(self._call("GetModel", scorer_pb2.GetModelRequest(model_version=version), "", timeout))

    def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _stub(self) -> Any:
        return self._stubs[next(self._turn) % len(self._stubs)]

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return self._connection.metadata()

    def _translate(self, error: grpc.RpcError, limit: float, request_id: str = "") -> CallError:
        return from_rpc(error, self.target, limit, request_id, secure=self._connection.secure)

    def _call(self, method: str, request: Any, request_id: str, timeout: float | None) -> Any:
        limit = timeout if timeout is not None else self.timeout
        deadline = time.monotonic() + limit
        for tries in count(1):
            left = max(0.0, deadline - time.monotonic())
            try:
                return getattr(self._stub, method)(request, timeout=left, metadata=self._metadata())
            except grpc.RpcError as error:
                failure = self._translate(error, limit, request_id)
                pause = self._connection.policy.pause(failure, tries, deadline - time.monotonic())
                if pause is None:
                    raise failure from error
            time.sleep(pause)
        raise AssertionError("count never ends")

    def _bulk(
        self, images: Iterable[Image], in_flight: int | None, may_send: Callable[[int], bool], options: ScoreOptions
    ) -> Generator[Outcome, None, None]:
        if in_flight is not None and in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        score_request(b"", "", **options)  # a wrong option is told now, once
        limits = self.model(options.get("model_version", ""))
        window = in_flight or limits.max_stream_in_flight or IN_FLIGHT
        source = enumerate(images)
        more = True
        bulk = BulkStream(self._connection.policy, self.timeout)
        line: _Line | None = None
        try:
            while True:
                while more and len(bulk) < window and may_send(window):
                    index, image = next(source, (-1, b""))
                    more = index >= 0
                    if not more:
                        break
                    try:
                        data = read_image(image)
                        check_message_size(data, image, limits)
                    except ImageError as error:
                        yield outcome(index, image, error)
                    else:
                        bulk.admit(index, image, score_request(data, "", **options))
                if not more and not len(bulk):
                    return
                for request in bulk.to_send():
                    line = line or _Line(self._stub.ScoreStream, self._metadata())
                    line.send(request)
                bulk.check(self.target)
                if line is None:
                    time.sleep(bulk.patience())
                    continue
                event = line.next(bulk.patience())
                if isinstance(event, scorer_pb2.ScoreResult):
                    if (item := bulk.take(event)) is not None:
                        yield item
                elif event is not None:
                    line.close()
                    line = None
                    failed = isinstance(event, grpc.RpcError)
                    bulk.broken(self._translate(event, self.timeout) if failed else ended_early())
        finally:
            if line is not None:
                line.close()


def _open(connection: Connection, credentials: grpc.ChannelCredentials | None, number: int) -> grpc.Channel:
    options = connection.options(number)
    if credentials is None:
        return grpc.insecure_channel(connection.target, options=options)
    return grpc.secure_channel(connection.target, credentials, options=options)


class _End:
    """The service closed the stream without a fault."""


class _Line:
    """One ScoreStream call. gRPC's blocking iterator has no time limit, so a thread turns it into a
    queue that has."""

    def __init__(self, method: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._outbox: queue.SimpleQueue[scorer_pb2.ScoreRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[scorer_pb2.ScoreResult | grpc.RpcError | _End] = queue.SimpleQueue()
        self._call = method(iter(self._outbox.get, None), metadata=metadata)
        threading.Thread(target=self._read, name="rapo-client-stream", daemon=True).start()

    def send(self, request: scorer_pb2.ScoreRequest) -> None:
        self._outbox.put(request)

    def next(self, timeout: float) -> scorer_pb2.ScoreResult | grpc.RpcError | _End | None:
        """The next event; None where there is none within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._outbox.put(None)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._events.put(reply)
            self._events.put(_End())
        except grpc.RpcError as error:
            self._events.put(error)
