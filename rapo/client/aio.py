"""AsyncScorerClient: the client of `rapo.client.sync` for asyncio.

    async with AsyncScorerClient("127.0.0.1:50051") as client:
        print((await client.score("photo.jpg")).score)

It has the same calls, arguments, results and errors.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from rapo.client.base import ClientBase
from rapo.client.batch import BatchJob
from rapo.client.bulk import BulkJob, HasRoom, InOrder, LoadedImage, check_bulk_arguments
from rapo.client.errors import CallError, ended_early
from rapo.client.images import is_bytes, read_image
from rapo.client.messages import (
    explained,
    load_image,
    model_info,
    rank_job,
    ranking,
    score_request,
    score_result,
)
from rapo.client.stream_call import AsyncStreamCall
from rapo.client.types import Image, ModelInfo, Outcome, Ranking, ScoreOptions, ScoreResult
from rapo.v1 import scorer_pb2
from rapo.v1.scorer_pb2_grpc import AestheticScorerStub

Images = Iterable[Image] | AsyncIterable[Image]
R = TypeVar("R")


class AsyncScorerClient(ClientBase[grpc.aio.Channel]):
    """`ScorerClient` for asyncio; see there for the arguments and the errors.

    A client belongs to the event loop that it is first used in. Files are read in threads.
    """

    async def score(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> ScoreResult:
        """`ScorerClient.score`. Cancelling the task cancels the work on the server."""
        request_id = request_id or uuid.uuid4().hex
        request = score_request(await _read(image), request_id, **options)
        return score_result(await self._call(lambda stub: stub.Score, request, request_id, timeout))

    async def score_batch(
        self, images: Sequence[Image], *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> tuple[Outcome, ...]:
        """`ScorerClient.score_batch`."""
        job = await asyncio.to_thread(BatchJob, images, options, self._connection.policy, self._limit(timeout))
        while job.request.requests:
            reply = await self._call(lambda stub: stub.ScoreBatch, job.request, job.request_id, job.left())
            await asyncio.sleep(job.take(reply))
        return job.outcomes()

    async def score_many(
        self, images: Images, in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> AsyncGenerator[Outcome, None]:
        """`ScorerClient.score_many`; `images` may be asynchronous, too."""
        ordered = InOrder()
        async with aclosing(self._bulk(images, in_flight, ordered.has_room, options)) as outcomes:
            async for outcome in outcomes:
                for item in ordered.add(outcome):
                    yield item

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
        job = await asyncio.to_thread(rank_job, images, request_id, readout, model_version)
        return ranking(await self._call(lambda stub: stub.Rank, job.request, request_id, timeout), job)

    async def explain(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> AsyncGenerator[str | ScoreResult, None]:
        """`ScorerClient.explain`."""
        request_id = request_id or uuid.uuid4().hex
        request = score_request(await _read(image), request_id, **options)
        attempts = self._attempts(timeout, request_id)
        while True:
            begun = False
            call = self._stub().Explain(request, timeout=attempts.left(), metadata=self._metadata())
            try:
                async for message in call:
                    begun = True
                    yield (part := explained(message))
                    if isinstance(part, ScoreResult):
                        return
                raise ended_early()
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.pause_after(error, final=begun))
            finally:
                call.cancel()

    async def model(self, version: str = "", *, timeout: float | None = None) -> ModelInfo:
        """`ScorerClient.model`."""
        request = scorer_pb2.GetModelRequest(model_version=version)
        return model_info(await self._call(lambda stub: stub.GetModel, request, "", timeout))

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _stub(self) -> AestheticScorerStub:
        if not self._channels:  # not before: a channel binds to the loop that runs when it is made
            self._open(grpc.aio.insecure_channel, grpc.aio.secure_channel)
        return super()._stub()

    async def _call(
        self,
        method: Callable[[AestheticScorerStub], Callable[..., Awaitable[R]]],
        request: Message,
        request_id: str,
        timeout: float | None,
    ) -> R:
        attempts = self._attempts(timeout, request_id)
        while True:
            try:
                return await method(self._stub())(request, timeout=attempts.left(), metadata=self._metadata())
            except grpc.RpcError as error:
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def _bulk(
        self, images: Images, in_flight: int | None, has_room: HasRoom, options: ScoreOptions
    ) -> AsyncGenerator[Outcome, None]:
        check_bulk_arguments(images, in_flight, options)
        limits = await self.model(options.get("model_version", ""))
        # One version for the whole job, also if the service changes its default meanwhile.
        options = {**options, "model_version": limits.model_version}
        job = BulkJob(self._connection.policy, self.timeout, limits, in_flight, options, has_room)
        source = _loaded(images, limits)
        call: AsyncStreamCall | None = None
        try:
            while True:
                while job.wants_image():
                    if (failed := job.add(await anext(source, None))) is not None:
                        yield failed
                if job.finished:
                    return
                for request in job.to_send():
                    call = call or AsyncStreamCall(self._stub().ScoreStream, self._metadata(), self._stream_error)
                    call.send(request)
                job.check(self.target)
                if call is None:
                    await asyncio.sleep(job.patience())
                    continue
                event = await call.next(job.patience())
                if isinstance(event, CallError):
                    await call.close()
                    call = None
                    job.broken(event)
                elif event is not None and (outcome := job.take(event)) is not None:
                    yield outcome
        finally:
            if call is not None:
                await call.close()
            await source.aclose()


async def _read(image: Image) -> bytes:
    return read_image(image) if is_bytes(image) else await asyncio.to_thread(read_image, image)


async def _load(image: Image, limits: ModelInfo) -> LoadedImage:
    if is_bytes(image):
        return image, load_image(image, limits)
    return image, await asyncio.to_thread(load_image, image, limits)


async def _loaded(images: Images, limits: ModelInfo) -> AsyncGenerator[LoadedImage, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield await _load(image, limits)
    else:
        for image in images:
            yield await _load(image, limits)
