"""ScorerClient: the blocking gRPC client of the scoring service. It needs grpcio and protobuf only.

    with ScorerClient("127.0.0.1:50051") as client:
        print(client.score("photo.jpg").score)

`rapo.client.aio` has the same client for asyncio.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from rapo.client.base import ClientBase
from rapo.client.batch import BatchJob
from rapo.client.bulk import BulkJob, HasRoom, InOrder, check_bulk_arguments
from rapo.client.errors import CallError, ended_early
from rapo.client.images import read_image
from rapo.client.messages import (
    explained,
    load_image,
    model_info,
    rank_job,
    ranking,
    score_request,
    score_result,
)
from rapo.client.stream_call import StreamCall
from rapo.client.types import Image, ModelInfo, Outcome, Ranking, ScoreOptions, ScoreResult
from rapo.v1 import scorer_pb2
from rapo.v1.scorer_pb2_grpc import AestheticScorerStub

R = TypeVar("R")


class ScorerClient(ClientBase[grpc.Channel]):
    """A client of one scoring service. Connections are made at the first call. Many threads may use
    one client.

    `timeout` is the limit of one call in seconds, retries included; of a bulk job it is the longest
    silence. The address, TLS and token arguments are those of `rapo.client.connection.Connection`,
    whose module lists what is retried; `attempts` counts the first try too, up to 5, and 1 turns
    every retry off. `channels` is the number of connections that calls take in turn: one is
    enough unless many large images travel at once.

    Raises `ConfigError` for arguments that cannot work. Every call raises `CallError` with the
    service's words if the service refuses it or cannot be reached, and `ImageError` for a path that
    cannot be read.
    """

    def score(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> ScoreResult:
        """Score one image.

        The error's code is INVALID_ARGUMENT for an unusable image, FAILED_PRECONDITION if the
        model's answer held no score.
        """
        request_id = request_id or uuid.uuid4().hex
        request = score_request(read_image(image), request_id, **options)
        return score_result(self._call(lambda stub: stub.Score, request, request_id, timeout))

    def score_batch(
        self, images: Sequence[Image], *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> tuple[Outcome, ...]:
        """Score a few images in one call, at most `ModelInfo.max_batch`; an outcome for each, in
        their order.

        An image whose error says when to retry is sent again, as far as the time limit allows.
        """
        job = BatchJob(images, options, self._connection.policy, self._limit(timeout))
        while job.request.requests:
            time.sleep(job.take(self._call(lambda stub: stub.ScoreBatch, job.request, job.request_id, job.left())))
        return job.outcomes()

    def score_many(
        self, images: Iterable[Image], in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> Generator[Outcome, None, None]:
        """Score any number of images over one stream, and yield an outcome per image in the order
        of `images`.

        As `stream`, except for the order: a slow image holds back those after it, of which at most
        four times `in_flight` are kept. `images` may be endless.
        """
        ordered = InOrder()
        with closing(self._bulk(images, in_flight, ordered.has_room, options)) as outcomes:
            for outcome in outcomes:
                yield from ordered.add(outcome)

    def stream(
        self, images: Iterable[Image], in_flight: int | None = None, **options: Unpack[ScoreOptions]
    ) -> Generator[Outcome, None, None]:
        """Score any number of images over one stream, and yield an outcome for each as it is ready,
        in any order.

        An image that fails never stops the others. All are scored by one model version: the one
        that answers when the job begins. At most `in_flight` are read and in flight at a
        time (default: as many as the service takes); nothing is sent while the caller does not take
        outcomes. After a stream breaks, what is unanswered is sent again over a new one; no image
        is yielded twice. Raises `CallError` if the service refuses the stream, or answers nothing
        for `timeout` seconds.
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
        each is preferred to each.

        An image that cannot be read is ranked last, as one that the service cannot use."""
        request_id = request_id or uuid.uuid4().hex
        job = rank_job(images, request_id, readout, model_version)
        return ranking(self._call(lambda stub: stub.Rank, job.request, request_id, timeout), job)

    def explain(
        self, image: Image, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> Generator[str | ScoreResult, None, None]:
        """Yield the rationale piece by piece while the model writes it, then the `ScoreResult`,
        always last."""
        request_id = request_id or uuid.uuid4().hex
        request = score_request(read_image(image), request_id, **options)
        attempts = self._attempts(timeout, request_id)
        while True:
            begun = False
            call = self._stub().Explain(request, timeout=attempts.left(), metadata=self._metadata())
            try:
                for part in map(explained, call):
                    begun = True
                    yield part
                    if isinstance(part, ScoreResult):
                        return
                raise ended_early()
            except grpc.RpcError as error:
                time.sleep(attempts.pause_after(error, final=begun))
            finally:
                call.cancel()

    def model(self, version: str = "", *, timeout: float | None = None) -> ModelInfo:
        """Which model answers (the default, or `version`), and what it takes."""
        request = scorer_pb2.GetModelRequest(model_version=version)
        return model_info(self._call(lambda stub: stub.GetModel, request, "", timeout))

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        self._open(grpc.insecure_channel, grpc.secure_channel)

    def _call(
        self,
        method: Callable[[AestheticScorerStub], Callable[..., R]],
        request: Message,
        request_id: str,
        timeout: float | None,
    ) -> R:
        attempts = self._attempts(timeout, request_id)
        while True:
            try:
                return method(self._stub())(request, timeout=attempts.left(), metadata=self._metadata())
            except grpc.RpcError as error:
                pause = attempts.pause_after(error)
            time.sleep(pause)

    def _bulk(
        self, images: Iterable[Image], in_flight: int | None, has_room: HasRoom, options: ScoreOptions
    ) -> Generator[Outcome, None, None]:
        check_bulk_arguments(images, in_flight, options)
        limits = self.model(options.get("model_version", ""))
        # One version for the whole job, also if the service changes its default meanwhile.
        options = {**options, "model_version": limits.model_version}
        job = BulkJob(self._connection.policy, self.timeout, limits, in_flight, options, has_room)
        source = ((image, load_image(image, limits)) for image in images)
        call: StreamCall | None = None
        try:
            while True:
                while job.wants_image():
                    if (failed := job.add(next(source, None))) is not None:
                        yield failed
                if job.finished:
                    return
                for request in job.to_send():
                    call = call or StreamCall(self._stub().ScoreStream, self._metadata(), self._stream_error)
                    call.send(request)
                job.check(self.target)
                if call is None:
                    time.sleep(job.patience())
                    continue
                event = call.next(job.patience())
                if isinstance(event, CallError):
                    call.close()
                    call = None
                    job.broken(event)
                elif event is not None and (outcome := job.take(event)) is not None:
                    yield outcome
        finally:
            if call is not None:
                call.close()
