"""The client of `rapo.client` for asyncio: the same calls, arguments, results and errors.

    async with AsyncScorerClient("127.0.0.1:50051") as client:
        print((await client.score("photo.jpg")).score)

A client belongs to the event loop that it is first used in. Files are read in threads.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import count
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from rapo.client.connection import DEFAULT_TARGET, Connection, Pem, RetryPolicy
from rapo.client.errors import CallError, from_rpc
from rapo.client.stream import BulkStream, ended_early
from rapo.client.sync import IN_FLIGHT
from rapo.client.types import (
    Image,
    ModelInfo,
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

Images = Iterable[Image] | AsyncIterable[Image]


class AsyncScorerClient:
    """`ScorerClient` for asyncio; see there for the arguments and the errors."""

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
        self._credentials = self._connection.credentials()
        self._size = max(1, channels)
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[Any] = []
        self._turn = count()

    async def score(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> ScoreResult:
        """`ScorerClient.score`. Cancelling the task cancels the work on the server."""
        request_id = request_id or uuid.uuid4().hex
        request = score_request(await _read(image), request_id, **options)
        return score_result(await self._call("Score", request, request_id, timeout))

    async def score_batch(
        self, images: Sequence[Image], *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> tuple[Outcome, ...]:
        """`ScorerClient.score_batch`."""
        deadline = time.monotonic() + (timeout if timeout is not None else self.timeout)
        request_id = uuid.uuid4().hex
        outcomes, request = await asyncio.to_thread(batch_request, images, request_id, options)
        tries = 0
        while request.requests:
            reply = await self._call("ScoreBatch", request, request_id, deadline - time.monotonic())
            tries += 1
            again = batch_results(outcomes, images, request, reply)
            pauses = [
                self._connection.policy.pause(error, tries, deadline - time.monotonic()) for error in again.values()
            ]
            if not pauses or None in pauses:
                break
            await asyncio.sleep(max(pause for pause in pauses if pause is not None))
            request = scorer_pb2.ScoreBatchRequest(requests=[r for r in request.requests if r.request_id in again])
        return tuple(outcomes[index] for index in range(len(images)))

    async def score_many(
        self, images: Images, in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> AsyncGenerator[Outcome, None]:
        """`ScorerClient.score_many`; `images` may be asynchronous, too."""
        ready: dict[int, Outcome] = {}
        head = 0
        bulk = self._bulk(images, in_flight, lambda window: len(ready) < 4 * window, options)
        async with aclosing(bulk) as outcomes:
            async for item in outcomes:
                ready[item.index] = item
                while head in ready:
                    yield ready.pop(head)
                    head += 1

    def stream(
        self, images: Images, in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> AsyncGenerator[Outcome, None]:
        """`ScorerClient.stream`; `images` may be asynchronous, too."""
        return self._bulk(images, in_flight, lambda window: True, options)

    async def rank(
        self,
        images: Sequence[Image],
        *,
        readout: str | None = None,
        model_version: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Ranking:
        """`ScorerClient.rank`."""
        request_id = request_id or uuid.uuid4().hex
        request = await asyncio.to_thread(rank_request, images, request_id, readout, model_version)
        return ranking(await self._call("Rank", request, request_id, timeout), images)

    async def explain(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> AsyncGenerator[str | ScoreResult, None]:
        """`ScorerClient.explain`."""
        request_id = request_id or uuid.uuid4().hex
        request = score_request(await _read(image), request_id, **options)
        limit = timeout if timeout is not None else self.timeout
        deadline = time.monotonic() + limit
        for tries in count(1):
            begun = False
            left = max(0.0, deadline - time.monotonic())
            call = self._stub().Explain(request, timeout=left, metadata=self._metadata())
            try:
                async for part in call:
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
                await asyncio.sleep(pause)
            finally:
                call.cancel()

    async def model(self, version: str = "", *, timeout: float | None = None) -> ModelInfo:
        """`ScorerClient.model`."""
        return model_info(await self._call("GetModel", scorer_pb2.GetModelRequest(model_version=version), "", timeout))

    async def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _stub(self) -> Any:
        if not self._channels:  # not before: a channel binds to the loop that runs when it is made
            self._channels = [_open(self._connection, self._credentials, number) for number in range(self._size)]
            self._stubs = [scorer_pb2_grpc.AestheticScorerStub(channel) for channel in self._channels]
        return self._stubs[next(self._turn) % self._size]

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return self._connection.metadata()

    def _translate(self, error: grpc.RpcError, limit: float, request_id: str = "") -> CallError:
        return from_rpc(error, self.target, limit, request_id, secure=self._connection.secure)

    async def _call(self, method: str, request: Any, request_id: str, timeout: float | None) -> Any:
        limit = timeout if timeout is not None else self.timeout
        deadline = time.monotonic() + limit
        for tries in count(1):
            left = max(0.0, deadline - time.monotonic())
            try:
                return await getattr(self._stub(), method)(request, timeout=left, metadata=self._metadata())
            except grpc.RpcError as error:
                failure = self._translate(error, limit, request_id)
                pause = self._connection.policy.pause(failure, tries, deadline - time.monotonic())
                if pause is None:
                    raise failure from error
            await asyncio.sleep(pause)
        raise AssertionError("count never ends")

    async def _bulk(
        self, images: Images, in_flight: int | None, may_send: Callable[[int], bool], options: ScoreOptions
    ) -> AsyncGenerator[Outcome, None]:
        if in_flight is not None and in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        score_request(b"", "", **options)  # a wrong option is told now, once
        limits = await self.model(options.get("model_version", ""))
        window = in_flight or limits.max_stream_in_flight or IN_FLIGHT
        source = _iterate(images)
        index = 0
        more = True
        bulk = BulkStream(self._connection.policy, self.timeout)
        line: _Line | None = None
        try:
            while True:
                while more and len(bulk) < window and may_send(window):
                    image = await anext(source, None)
                    if image is None:
                        more = False
                        break
                    try:
                        data = await _read(image)
                        check_message_size(data, image, limits)
                    except ImageError as error:
                        yield outcome(index, image, error)
                    else:
                        bulk.admit(index, image, score_request(data, "", **options))
                    index += 1
                if not more and not len(bulk):
                    return
                for request in bulk.to_send():
                    line = line or _Line(self._stub().ScoreStream, self._metadata())
                    line.send(request)
                bulk.check(self.target)
                if line is None:
                    await asyncio.sleep(bulk.patience())
                    continue
                event = await line.next(bulk.patience())
                if isinstance(event, scorer_pb2.ScoreResult):
                    if (item := bulk.take(event)) is not None:
                        yield item
                elif event is not None:
                    await line.close()
                    line = None
                    failed = isinstance(event, grpc.RpcError)
                    bulk.broken(self._translate(event, self.timeout) if failed else ended_early())
        finally:
            if line is not None:
                await line.close()
            await source.aclose()


def _open(connection: Connection, credentials: grpc.ChannelCredentials | None, number: int) -> grpc.aio.Channel:
    options = connection.options(number)
    if credentials is None:
        return grpc.aio.insecure_channel(connection.target, options=options)
    return grpc.aio.secure_channel(connection.target, credentials, options=options)


async def _read(image: Image) -> bytes:
    return image if isinstance(image, bytes) else await asyncio.to_thread(read_image, image)


async def _iterate(images: Images) -> AsyncGenerator[Image, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


class _End:
    """The service closed the stream without a fault."""


class _Line:
    """One ScoreStream call whose replies have a time limit: cancelling a read of gRPC's would
    cancel the call."""

    def __init__(self, method: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._outbox: asyncio.Queue[scorer_pb2.ScoreRequest] = asyncio.Queue()
        self._events: asyncio.Queue[scorer_pb2.ScoreResult | grpc.RpcError | _End] = asyncio.Queue()
        self._call = method(self._requests(), metadata=metadata)
        self._reader = asyncio.create_task(self._read())

    def send(self, request: scorer_pb2.ScoreRequest) -> None:
        self._outbox.put_nowait(request)

    async def next(self, timeout: float) -> scorer_pb2.ScoreResult | grpc.RpcError | _End | None:
        """The next event; None where there is none within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._events.get()
        except TimeoutError:
            return None

    async def close(self) -> None:
        self._call.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _requests(self) -> AsyncGenerator[scorer_pb2.ScoreRequest, None]:
        while True:
            yield await self._outbox.get()

    async def _read(self) -> None:
        try:
            async for reply in self._call:
                self._events.put_nowait(reply)
            self._events.put_nowait(_End())
        except grpc.RpcError as error:
            self._events.put_nowait(error)
