"""StreamCall and AsyncStreamCall: one ScoreStream call whose replies can be waited for with a time
limit.

gRPC's own iterators have none: the blocking one waits for ever, and cancelling a read of the
asynchronous one cancels the call. So a thread or a task moves the replies into a queue.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable

import grpc

from rapo.client.connection import Metadata
from rapo.client.errors import CallError, ended_early
from rapo.v1 import scorer_pb2

#: A result of the stream, or why the stream ended.
Event = scorer_pb2.ScoreResult | CallError


class StreamCall:
    """A call of gRPC's blocking API. It begins now."""

    def __init__(
        self,
        method: grpc.StreamStreamMultiCallable,
        metadata: Metadata,
        call_error: Callable[[grpc.RpcError], CallError],
    ) -> None:
        self._call_error = call_error
        self._outbox: queue.SimpleQueue[scorer_pb2.ScoreRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._call = method(iter(self._outbox.get, None), metadata=metadata)
        threading.Thread(target=self._read, name="rapo-client-stream", daemon=True).start()

    def send(self, request: scorer_pb2.ScoreRequest) -> None:
        """Queue a request; returns at once."""
        self._outbox.put(request)

    def next(self, timeout: float) -> Event | None:
        """The next event; None if there is none within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Cancel the call."""
        self._outbox.put(None)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._events.put(reply)
            self._events.put(ended_early())
        except grpc.RpcError as error:
            self._events.put(self._call_error(error))


class AsyncStreamCall:
    """A call of gRPC's asynchronous API. It begins now."""

    def __init__(
        self,
        method: grpc.aio.StreamStreamMultiCallable,
        metadata: Metadata,
        call_error: Callable[[grpc.RpcError], CallError],
    ) -> None:
        self._call_error = call_error
        self._outbox: asyncio.Queue[scorer_pb2.ScoreRequest] = asyncio.Queue()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._call = method(self._requests(), metadata=metadata)
        self._reader = asyncio.create_task(self._read())

    def send(self, request: scorer_pb2.ScoreRequest) -> None:
        """Queue a request; returns at once."""
        self._outbox.put_nowait(request)

    async def next(self, timeout: float) -> Event | None:
        """The next event; None if there is none within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._events.get()
        except TimeoutError:
            return None

    async def close(self) -> None:
        """Cancel the call."""
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
            self._events.put_nowait(ended_early())
        except grpc.RpcError as error:
            self._events.put_nowait(self._call_error(error))
