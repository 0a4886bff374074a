"""The client against a real gRPC server in this process, with a scripted servicer behind it."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from itertools import count, islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from rapo.client import CallError, ScorerClient
from rapo.errors import ImageError, ServiceError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc

BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED


class Servicer(scorer_pb2_grpc.AestheticScorerServicer):
    """Scores an image of decimal digits as that number / 100; refuses the rest. `failures` come first."""

    def __init__(self) -> None:
        self.failures: list[grpc.StatusCode] = []
        self.requests: list[scorer_pb2.ScoreRequest] = []
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self.running = self.most_running = 0

    def Score(self, request, context):
        with self._lock:
            self.requests.append(request)
            failure = self.failures.pop(0) if self.failures else None
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if failure is not None:
                context.abort(failure, "not now")
            time.sleep(self.delay_s)
            if not request.image.strip(b" ").isdigit():
                context.set_trailing_metadata([("rapo-reason", "unknown_format")])
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not an image")
        finally:
            with self._lock:
                self.running -= 1
        return scorer_pb2.ScoreResponse(
            score=int(request.image) / 100,
            rationale="" if request.omit_rationale else "calm",
            model_version="v7",
            readout=scorer_pb2.READOUT_GREEDY,
            request_id=request.request_id,
            timings=scorer_pb2.Timings(decode_ms=1, queue_ms=2, generate_ms=3, completion_tokens=4),
        )

    def GetModel(self, request, context):
        unknown: Any = 9
        return scorer_pb2.GetModelResponse(
            model_version="v7", readouts=[scorer_pb2.READOUT_GREEDY, unknown], max_score=1.0, max_image_bytes=1000
        )


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def target(servicer: Servicer) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    scorer_pb2_grpc.add_AestheticScorerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait(5)


@pytest.fixture
def client(target: str) -> Iterator[ScorerClient]:
    with ScorerClient(target, timeout=10, initial_backoff=0.01, max_backoff=0.05) as client:
        yield client


def images(folder: Path, contents: list[str]) -> list[Path]:
    paths = [folder / f"{index}.jpg" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return paths


def test_bytes_and_paths_give_a_typed_result(client: ScorerClient, servicer: Servicer, tmp_path: Path) -> None:
    result = client.score(b"42")
    assert (result.score, result.rationale, result.model_version, result.readout) == (0.42, "calm", "v7", "greedy")
    assert (result.decode_ms, result.queue_ms, result.generate_ms, result.completion_tokens) == (1, 2, 3, 4)
    assert result.request_id == servicer.requests[0].request_id != ""
    path = images(tmp_path, ["7"])[0]
    assert client.score(path).score == client.score(str(path)).score == 0.07
    assert client.score(b"42", rationale=False, request_id="mine").rationale == ""
    assert servicer.requests[-1].request_id == "mine"


def test_model_tolerates_a_readout_it_does_not_know(client: ScorerClient) -> None:
    model = client.model()
    assert model.readouts == ("greedy", "readout-9")
    assert (model.model_version, model.score_range, model.max_image_bytes) == ("v7", (0.0, 1.0), 1000)


@pytest.mark.parametrize("status", [BUSY, grpc.StatusCode.UNAVAILABLE])
def test_passing_failures_are_retried(client: ScorerClient, servicer: Servicer, status: grpc.StatusCode) -> None:
    servicer.failures = [status] * 3
    assert client.score(b"42").score == 0.42
    assert len(servicer.requests) == 4
    assert len({request.request_id for request in servicer.requests}) == 1


def test_large_images_are_retried_too(client: ScorerClient, servicer: Servicer) -> None:
    servicer.failures = [BUSY]
    assert client.score(b" " * 3_000_000 + b"42").score == 0.42
    assert len(servicer.requests) == 2


def test_retries_end_and_the_error_carries_the_server_words(client: ScorerClient, servicer: Servicer) -> None:
    servicer.failures = [BUSY] * 50
    with pytest.raises(CallError, match="not now") as caught:
        client.score(b"42", request_id="mine")
    assert len(servicer.requests) == 5
    assert (caught.value.code, caught.value.request_id) == ("RESOURCE_EXHAUSTED", "mine")


def test_one_attempt_means_no_retry(target: str, servicer: Servicer) -> None:
    servicer.failures = [BUSY]
    with ScorerClient(target, attempts=1) as client, pytest.raises(CallError):
        client.score(b"42")
    assert len(servicer.requests) == 1


def test_refusals_are_not_retried(client: ScorerClient, servicer: Servicer) -> None:
    with pytest.raises(ServiceError, match="not an image") as caught:
        client.score(b"nonsense")
    assert isinstance(caught.value, CallError)
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "unknown_format")
    assert len(servicer.requests) == 1


def test_the_error_survives_pickling() -> None:
    error = CallError("words", code="INTERNAL", reason="internal", request_id="x")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.reason, copy.request_id) == ("words", "INTERNAL", "internal", "x")


def test_a_slow_server_hits_the_time_limit(target: str, servicer: Servicer) -> None:
    servicer.delay_s = 1.0
    with ScorerClient(target, timeout=0.2) as client, pytest.raises(CallError, match=r"within 0\.2 s"):
        client.score(b"42")


def test_nobody_listening_says_what_to_do() -> None:
    with ScorerClient("127.0.0.1:1", timeout=5, attempts=1) as client, pytest.raises(ServiceError, match="rapo serve"):
        client.model()


def test_a_missing_file_is_an_image_error(client: ScorerClient, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        client.score(tmp_path / "gone.jpg")


def test_many_keeps_the_order_and_survives_bad_images(client: ScorerClient, servicer: Servicer, tmp_path: Path) -> None:
    paths = images(tmp_path, [str(i) for i in range(30)])
    paths[5].write_text("bad")
    paths[11].unlink()
    servicer.delay_s = 0.01
    outcomes = list(client.score_many(paths, concurrency=4))
    assert [outcome.image for outcome in outcomes] == paths
    assert [i for i, outcome in enumerate(outcomes) if outcome.result is None] == [5, 11]
    assert all((outcome.result is None) != (outcome.error is None) for outcome in outcomes)
    assert [outcome.result.score for outcome in outcomes if outcome.result] == [
        i / 100 for i in range(30) if i not in (5, 11)
    ]
    assert 1 < servicer.most_running <= 4


def test_many_reads_no_further_ahead_than_it_must(client: ScorerClient, tmp_path: Path) -> None:
    path = images(tmp_path, ["1"])[0]
    taken = count()
    endless = (path for _ in taken)
    stream = client.score_many(endless, concurrency=2)
    assert [outcome.image for outcome in islice(stream, 10)] == [path] * 10
    stream.close()
    assert next(taken) <= 10 + 2 * 2
