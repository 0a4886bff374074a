"""FakeScorer: a scoring service in this process for the tests of clients, with scripted faults.

An image of decimal digits, spaces around them allowed, scores that number / 100; any other is
refused.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import DETAILS_KEY, DOMAIN, REASON_KEY


class FakeScorer(scorer_pb2_grpc.AestheticScorerServicer):
    """Each image, of any RPC, takes one of `failures` first. Each stream takes one of `breaks`: the
    number of answers after which it breaks."""

    def __init__(self) -> None:
        self.failures: list[status_pb2.Status] = []
        self.breaks: list[int] = []
        self.requests: list[scorer_pb2.ScoreRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.streams = 0
        self.stream_refusal: status_pb2.Status | None = None
        self.delay_s = 0.0
        self.token: str | None = None
        self.default = "v7"
        self.limits = scorer_pb2.Limits(
            max_batch=8, max_stream_in_flight=4, max_message_bytes=4 * 2**20, max_samples=16
        )
        self._lock = threading.Lock()
        self.running = self.most_running = 0

    def Score(self, request, context):
        self._admit(context)
        with self._counted():
            answer = self._answer(request)
        if isinstance(answer, status_pb2.Status):
            abort(context, answer)
        return answer

    def ScoreBatch(self, request, context):
        self._admit(context)
        if len(request.requests) > self.limits.max_batch:
            abort(context, status(code_pb2.INVALID_ARGUMENT, "too many", "too_many", field="requests"))
        return scorer_pb2.ScoreBatchResponse(results=[self._result(item) for item in request.requests])

    def ScoreStream(self, request_iterator, context):
        self._admit(context)
        with self._lock:
            self.streams += 1
            budget = self.breaks.pop(0) if self.breaks else None
        if self.stream_refusal is not None:
            abort(context, self.stream_refusal)
        answers: queue.SimpleQueue[scorer_pb2.ScoreResult | int] = queue.SimpleQueue()
        room = threading.Semaphore(self.limits.max_stream_in_flight)
        feeder = threading.Thread(target=self._feed, args=(request_iterator, answers, room), daemon=True)
        feeder.start()
        given, total = 0, None
        while total is None or given < total:
            answer = answers.get(timeout=20)
            if isinstance(answer, int):
                total = answer
                continue
            if given == budget:
                abort(context, status(code_pb2.UNAVAILABLE, "going down", "stopping"))
            given += 1
            room.release()
            yield answer

    def _feed(
        self,
        requests: Iterator[scorer_pb2.ScoreRequest],
        answers: queue.SimpleQueue[scorer_pb2.ScoreResult | int],
        room: threading.Semaphore,
    ) -> None:
        count = 0
        with futures.ThreadPoolExecutor(8) as pool:
            try:
                for request in requests:
                    if not room.acquire(timeout=20):
                        return
                    pool.submit(lambda item: answers.put(self._counted_result(item)), request)
                    count += 1
            except Exception:  # noqa: BLE001 - gRPC raises a bare one if the caller has gone
                return
        answers.put(count)

    def Rank(self, request, context):
        self._admit(context)
        answers = [
            self._answer(scorer_pb2.ScoreRequest(image=image, request_id=f"{request.request_id}-{index}"))
            for index, image in enumerate(request.images)
        ]
        scores = [a.score if isinstance(a, scorer_pb2.ScoreResponse) else math.nan for a in answers]
        ranked = sorted(range(len(scores)), key=lambda i: (math.isnan(scores[i]), -scores[i]))
        ranking = [
            scorer_pb2.RankedImage(index=i, response=answer)
            if isinstance(answer := answers[i], scorer_pb2.ScoreResponse)
            else scorer_pb2.RankedImage(index=i, error=answer)
            for i in ranked
        ]
        preference = [0.5 * (1 + math.erf((a - b) / 0.4)) for a in scores for b in scores]
        return scorer_pb2.RankResponse(
            ranking=ranking,
            preference=preference,
            model_version=self.default,
            readout=scorer_pb2.READOUT_EXPECTED,
            request_id=request.request_id,
        )

    def Explain(self, request, context):
        self._admit(context)
        answer = self._answer(request)
        if isinstance(answer, status_pb2.Status):
            abort(context, answer)
        for word in ("soft ", "light"):
            yield scorer_pb2.ExplainResponse(rationale_delta=word)
            time.sleep(self.delay_s)
        yield scorer_pb2.ExplainResponse(response=answer)

    def GetModel(self, request, context):
        self._admit(context)
        if request.model_version not in ("", "v7", "v6"):
            abort(context, status(code_pb2.NOT_FOUND, "no such model", "unknown_model"))
        unnamed: list[Any] = [9]  # a proto3 enum takes any number; the stub knows only the named ones
        return scorer_pb2.GetModelResponse(
            model_version=request.model_version or self.default,
            readouts=[scorer_pb2.READOUT_EXPECTED, scorer_pb2.READOUT_GREEDY, *unnamed],
            max_score=1.0,
            max_image_bytes=2 * 2**20,
            native_scales=[scorer_pb2.NativeScale(name="ava", min=1, max=10)],
            models=["v7", "v6"],
            limits=self.limits,
            interval=scorer_pb2.IntervalCalibration(coverage=0.9, readout=scorer_pb2.READOUT_EXPECTED, images=256),
        )

    def _admit(self, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        self.metadata.append(metadata)
        if self.token is not None and metadata.get("authorization") != f"Bearer {self.token}":
            abort(context, status(code_pb2.UNAUTHENTICATED, "no known token", "no_token"))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def _counted_result(self, request: scorer_pb2.ScoreRequest) -> scorer_pb2.ScoreResult:
        with self._counted():
            return self._result(request)

    def _result(self, request: scorer_pb2.ScoreRequest) -> scorer_pb2.ScoreResult:
        answer = self._answer(request)
        if isinstance(answer, status_pb2.Status):
            return scorer_pb2.ScoreResult(request_id=request.request_id, error=answer)
        return scorer_pb2.ScoreResult(request_id=request.request_id, response=answer)

    def _answer(self, request: scorer_pb2.ScoreRequest) -> scorer_pb2.ScoreResponse | status_pb2.Status:
        with self._lock:
            self.requests.append(request)
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            return failure
        time.sleep(self.delay_s * (1 + len(request.image) % 3))  # unequal, so that answers overtake each other
        if not request.image.strip(b" ").isdigit():
            return status(code_pb2.INVALID_ARGUMENT, "not an image", "unknown_format", field="image")
        score = int(request.image) / 100
        response = scorer_pb2.ScoreResponse(
            score=score,
            rationale="" if request.omit_rationale else "soft light",
            model_version=request.model_version or self.default,
            readout=request.readout or scorer_pb2.READOUT_EXPECTED,
            request_id=request.request_id,
            timings=scorer_pb2.Timings(decode_ms=1, queue_ms=2, generate_ms=3, completion_tokens=4),
            cached=bool(request.image.startswith(b" ")),
            forced=bool(request.image.endswith(b" ")),
        )
        if request.readout != scorer_pb2.READOUT_GREEDY:
            response.std = 0.1
            own = response.model_interval
            own.low, own.high = max(0.0, score - 0.2), min(1.0, score + 0.2)
        if response.readout == scorer_pb2.READOUT_EXPECTED:
            people = response.interval
            people.low, people.high, people.coverage = max(0.0, score - 0.3), min(1.0, score + 0.1), 0.9
        if request.native_scale:
            response.native_score = 1 + 9 * score
        if request.with_dimensions:
            response.dimensions.add(name="light and shadow", text="soft light")
        return response


def status(code: int, message: str, reason: str, *, field: str = "", retry_s: float | None = None) -> status_pb2.Status:
    """A status as the gateway makes them."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if retry_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    made = status_pb2.Status(code=code, message=message)
    for detail in details:
        made.details.add().Pack(detail)
    return made


def busy(retry_s: float = 0.01) -> status_pb2.Status:
    return status(code_pb2.RESOURCE_EXHAUSTED, "not now", "queue_full", retry_s=retry_s)


def abort(context: grpc.ServicerContext, failure: status_pb2.Status) -> None:
    reason = error_details_pb2.ErrorInfo()
    failure.details[0].Unpack(reason)
    context.set_trailing_metadata(((DETAILS_KEY, failure.SerializeToString()), (REASON_KEY, reason.reason)))
    code = next(item for item in grpc.StatusCode if item.value[0] == failure.code)
    context.abort(code, failure.message)


@contextmanager
def serving(
    scorer: scorer_pb2_grpc.AestheticScorerServicer,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    max_message_bytes: int = 4 * 2**20,
) -> Iterator[str]:
    """Serve on loopback; yields the address. Leaving ends all calls at once."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", max_message_bytes)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
    scorer_pb2_grpc.add_AestheticScorerServicer_to_server(scorer, server)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(0).wait(5)
