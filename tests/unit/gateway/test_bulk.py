"""The gateway's ScoreBatch, ScoreStream, Rank, Explain and GetModel, over a scripted deployment."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from serving import FakeDeployment, details_of, gateway_on, unpacked, until, upstream_of
from serving import settings_for as settings_of

from rapo.algorithm.preference import preference
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import SERVICE
from services.gateway import bulk
from services.gateway.server import Gateway

Stub = scorer_pb2_grpc.AestheticScorerStub
OPTIONS = {"max_batch": 8, "max_stream_in_flight": 4, "stream_idle_s": 5.0}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[FakeDeployment, Gateway]]:
    scorer = FakeDeployment()
    with gateway_on(scorer, **OPTIONS) as gateway:
        yield scorer, gateway


@pytest.fixture
def scorer(shared: tuple[FakeDeployment, Gateway]) -> FakeDeployment:
    scorer = shared[0]
    assert until(lambda: scorer.in_flight == 0)  # the test before may have left some
    scorer.seen.clear()
    scorer.applications.clear()
    scorer.most = scorer.cancelled = 0
    scorer.release.clear()
    scorer.before = lambda request: None
    return scorer


@pytest.fixture
def stub(shared: tuple[FakeDeployment, Gateway], scorer: FakeDeployment) -> Iterator[Stub]:
    with grpc.insecure_channel(shared[1].address) as channel:
        yield Stub(channel)


def requests(*images: bytes, model_version: str = "") -> list[scorer_pb2.ScoreRequest]:
    return [
        scorer_pb2.ScoreRequest(image=image, request_id=f"r{i}", model_version=model_version)
        for i, image in enumerate(images)
    ]


class TestBatch:
    def test_results_are_in_order_and_one_failure_stops_no_other(self, stub: Stub) -> None:
        batch = scorer_pb2.ScoreBatchRequest(requests=requests(b"slow:0.1", b"bad", b"0.3", b"silent"))
        results = stub.ScoreBatch(batch, timeout=10).results
        assert [result.request_id for result in results] == ["r0", "r1", "r2", "r3"]
        assert (results[0].response.score, results[2].response.score) == (0.1, 0.3)
        wrong, silent = results[1].error, results[3].error
        assert (wrong.code, wrong.message) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "not an image")
        assert unpacked(wrong)["BadRequest"].field_violations[0].field == "image"
        assert unpacked(silent)["ErrorInfo"].reason == "no_answer"

    @pytest.mark.parametrize("number", [0, 9])
    def test_a_wrong_number_of_images_is_refused_with_the_limit(
        self, stub: Stub, scorer: FakeDeployment, number: int
    ) -> None:
        with pytest.raises(grpc.RpcError, match="1 to 8") as caught:
            stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=requests(*[b"0.1"] * number)), timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(caught.value)["BadRequest"].field_violations[0].field == "requests"
        assert scorer.seen == []

    def test_no_more_than_the_limit_is_in_flight(self, stub: Stub, scorer: FakeDeployment) -> None:
        batch = scorer_pb2.ScoreBatchRequest(requests=requests(*[b"held:0.1"] * 8))
        call = stub.ScoreBatch.future(batch, timeout=20)
        assert until(lambda: scorer.in_flight == 4)
        scorer.release.set()
        assert len(call.result().results) == 8
        assert scorer.most == 4

    def test_a_full_queue_is_tried_again(self, stub: Stub, scorer: FakeDeployment) -> None:
        left = {"r1": 3}

        def full_at_first(request: scorer_pb2.ScoreRequest) -> None:
            if left.get(request.request_id, 0):
                left[request.request_id] -= 1
                request.image = b"busy" if left[request.request_id] else b"gone"

        scorer.before = full_at_first
        results = stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=requests(b"0.1", b"0.2")), timeout=10).results
        assert [result.response.score for result in results] == [0.1, 0.2]
        assert len(scorer.seen) == 5

    def test_an_outage_fails_the_call_in_the_gateways_words(self, stub: Stub) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=requests(b"gone", b"busy")), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert details_of(caught.value)["RetryInfo"].retry_delay.seconds == 1
        assert "/srv" not in str(caught.value)

    def test_an_image_that_no_replica_takes_is_one_error(self, stub: Stub) -> None:
        results = stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=requests(b"0.5", b"busy")), timeout=10).results
        assert results[1].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "RetryInfo" in unpacked(results[1].error)
        assert "10.1.2.3" not in str(results)

    def test_each_image_has_its_own_version(self, stub: Stub, scorer: FakeDeployment) -> None:
        batch = [*requests(b"0.1", model_version="v6"), *requests(b"0.2"), *requests(b"0.3", model_version="v1")]
        results = stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=batch), timeout=10).results
        assert sorted(scorer.applications) == ["app-6", "app-7"]
        assert results[2].error.code == grpc.StatusCode.NOT_FOUND.value[0]

    def test_a_new_default_does_not_split_a_batch(self, stub: Stub, shared: tuple[FakeDeployment, Gateway]) -> None:
        scorer, routes = shared[0], shared[1].routes
        call = stub.ScoreBatch.future(scorer_pb2.ScoreBatchRequest(requests=requests(*[b"held:0.1"] * 8)), timeout=20)
        assert until(lambda: scorer.in_flight == 4)
        routes.replace("v6", {"v7": "app-7", "v6": "app-6"})
        scorer.release.set()
        assert len(call.result().results) == 8
        routes.replace("v7", {"v7": "app-7", "v6": "app-6"})
        assert set(scorer.applications) == {"app-7"}

    @pytest.mark.parametrize("end", ["deadline", "cancel"])
    def test_a_caller_that_leaves_cancels_all(self, stub: Stub, scorer: FakeDeployment, end: str) -> None:
        batch = scorer_pb2.ScoreBatchRequest(requests=requests(*[b"held:0.1"] * 8))
        call = stub.ScoreBatch.future(batch, timeout=1.5 if end == "deadline" else 10)
        assert until(lambda: scorer.in_flight == 4)
        if end == "cancel":
            call.cancel()
        else:
            assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: scorer.cancelled >= 4)
        assert (scorer.cancelled, len(scorer.seen)) == (4, 4)  # the other half was never passed on


class Feed:
    """Requests for a stream, sent when the test says so; counts how many gRPC took."""

    def __init__(self) -> None:
        self.queue: queue.Queue[scorer_pb2.ScoreRequest | None] = queue.Queue()
        self.taken = 0

    def __iter__(self) -> Iterator[scorer_pb2.ScoreRequest]:
        while (request := self.queue.get(timeout=20)) is not None:
            self.taken += 1
            yield request

    def put(self, *requests: scorer_pb2.ScoreRequest, end: bool = False) -> Feed:
        for request in requests:
            self.queue.put(request)
        if end:
            self.queue.put(None)
        return self


class TestStream:
    def test_each_image_has_one_result_under_its_id(self, stub: Stub, scorer: FakeDeployment) -> None:
        images = [b"held:0.9", b"bad", *(f"0.{i:02}".encode() for i in range(40))]
        results = []
        for result in stub.ScoreStream(iter(requests(*images)), timeout=20):
            results.append(result)
            if len(results) == 41:
                scorer.release.set()
        assert sorted(result.request_id for result in results) == sorted(f"r{i}" for i in range(42))
        by_id = {result.request_id: result for result in results}
        assert (by_id["r0"].response.score, by_id["r7"].response.score) == (0.9, 0.05)
        assert by_id["r1"].HasField("error")
        assert results[-1].request_id == "r0"  # what is ready comes first
        assert scorer.most <= 4

    def test_the_server_reads_no_further_than_the_limit(self, stub: Stub, scorer: FakeDeployment) -> None:
        feed = Feed().put(*requests(*[b"held:0.5" + b"0" * 60_000] * 400), end=True)
        call = stub.ScoreStream(iter(feed), timeout=20)
        assert until(lambda: scorer.in_flight == 4)
        time.sleep(0.5)
        assert len(scorer.seen) == 4
        assert feed.taken < 200, feed.taken  # gRPC's flow control holds the client up
        scorer.release.set()
        assert len(list(call)) == 400

    def test_a_result_does_not_wait_for_the_next_request(self, stub: Stub) -> None:
        feed = Feed().put(*requests(b"0.5"))
        call = stub.ScoreStream(iter(feed), timeout=10)
        assert next(call).response.score == 0.5
        feed.put(*requests(b"0.6"), end=True)  # the id is free again
        assert next(call).response.score == 0.6
        assert list(call) == []

    @pytest.mark.parametrize(
        ("ids", "reason"), [(["a", "a"], "repeated_id"), ([""], "request_id"), (["a b"], "request_id")]
    )
    def test_ids_that_are_no_use_end_the_call(
        self, stub: Stub, scorer: FakeDeployment, ids: list[str], reason: str
    ) -> None:
        feed = Feed().put(*[scorer_pb2.ScoreRequest(image=b"held:0.5", request_id=name) for name in ids])
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ScoreStream(iter(feed), timeout=10))
        feed.put(end=True)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(caught.value)["ErrorInfo"].reason == reason
        assert details_of(caught.value)["BadRequest"].field_violations[0].field == "request_id"
        assert until(lambda: scorer.cancelled == len(scorer.seen))

    def test_garbage_ends_the_call(self, shared: tuple[FakeDeployment, Gateway]) -> None:
        with grpc.insecure_channel(shared[1].address) as channel, pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(f"/{SERVICE}/ScoreStream")(iter([b"\xff\xff"]), timeout=5))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("before", range(6))
    def test_a_violation_between_results_is_reported_too(self, stub: Stub, before: int) -> None:
        """A status cannot overtake a result that is being written: gRPC would drop it, and the
        client would hang."""
        for _ in range(10):
            messages = [*requests(*[b"0.5"] * before), scorer_pb2.ScoreRequest(image=b"0.5")]
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.ScoreStream(iter(messages), timeout=5))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    def test_a_client_that_reads_late_gets_what_there_was_and_a_status(self) -> None:
        """More results than gRPC's flow control lets through: one stays on its way."""
        with (
            gateway_on(FakeDeployment(), **{**OPTIONS, "stream_idle_s": 0.5}) as gateway,
            grpc.insecure_channel(gateway.address) as channel,
        ):
            call = scorer_pb2_grpc.AestheticScorerStub(channel).ScoreStream(
                iter(requests(*[b"long:0.5"] * 400)), timeout=30
            )
            time.sleep(2.0)
            results: list[scorer_pb2.ScoreResult] = []
            with pytest.raises(grpc.RpcError) as caught:
                results.extend(call)
        assert 0 < len(results) < 400
        assert (caught.value.code(), details_of(caught.value)["ErrorInfo"].reason) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "idle",
        )

    def test_a_full_queue_holds_the_stream_up(self, stub: Stub, scorer: FakeDeployment) -> None:
        tries = {"r0": 8}

        def full_at_first(request: scorer_pb2.ScoreRequest) -> None:
            if tries.get(request.request_id, 0):
                tries[request.request_id] -= 1
                request.image = b"busy"

        scorer.before = full_at_first
        results = list(stub.ScoreStream(iter(requests(b"0.5", b"0.6")), timeout=20))
        assert sorted(result.response.score for result in results) == [0.5, 0.6]

    def test_a_client_that_goes_cancels_its_images(self, stub: Stub, scorer: FakeDeployment) -> None:
        feed = Feed().put(*requests(*[b"held:0.5"] * 3))
        call = stub.ScoreStream(iter(feed), timeout=20)
        assert until(lambda: scorer.in_flight == 3)
        call.cancel()
        feed.put(end=True)
        assert until(lambda: scorer.cancelled == 3)

    def test_silence_has_a_limit(self) -> None:
        feed = Feed()
        with gateway_on(FakeDeployment(), stream_idle_s=0.3) as gateway:
            with grpc.insecure_channel(gateway.address) as channel, pytest.raises(grpc.RpcError) as caught:
                list(Stub(channel).ScoreStream(iter(feed), timeout=10))
            feed.put(end=True)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert details_of(caught.value)["ErrorInfo"].reason == "idle"

    @pytest.mark.parametrize("ended", [False, True])
    def test_a_stop_finishes_what_was_read_and_says_whether_to_retry(self, ended: bool) -> None:
        scorer, feed = FakeDeployment(), Feed()
        with upstream_of(scorer) as upstream:
            gateway = Gateway(settings_of(upstream, grace_s=10.0))
            gateway.start()
            with grpc.insecure_channel(gateway.address) as channel:
                feed.put(*requests(b"held:0.5", b"held:0.6"), end=ended)
                call = Stub(channel).ScoreStream(iter(feed), timeout=20)
                assert until(lambda: scorer.in_flight == 2)
                if ended:
                    time.sleep(1.0)  # nothing shows when the end of the requests has arrived
                stopper = threading.Thread(target=gateway.stop)
                stopper.start()
                time.sleep(0.2)
                scorer.release.set()
                assert sorted(next(call).response.score for _ in range(2)) == [0.5, 0.6]
                if ended:
                    assert list(call) == []
                else:
                    with pytest.raises(grpc.RpcError, match="stopping") as caught:
                        next(call)
                    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
                    assert details_of(caught.value)["RetryInfo"].retry_delay.seconds == 1
                feed.put(end=True)
                stopper.join(10)
        assert not stopper.is_alive()

    def test_a_client_that_takes_no_results_stops_being_read(self, stub: Stub, scorer: FakeDeployment) -> None:
        """Its results fill the window of the connection; then nothing more of it is scored."""
        call = stub.ScoreStream(iter(requests(*[b"long:0.5"] * 1000)), timeout=30)
        next(call)
        before = -1
        while before != len(scorer.seen):
            before = len(scorer.seen)
            time.sleep(0.3)
        assert before < 900
        assert len(list(call)) == 999


class TestRank:
    def test_best_first_with_the_probabilities(self, stub: Stub) -> None:
        images = [b"0.4", b"bad", b"0.9", b"0.4"]
        reply = stub.Rank(scorer_pb2.RankRequest(images=images, request_id="mine"), timeout=10)
        assert [ranked.index for ranked in reply.ranking] == [2, 0, 3, 1]
        assert reply.ranking[0].response.score == 0.9
        assert reply.ranking[3].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert (reply.model_version, reply.request_id) == ("v7", "mine")
        assert reply.readout == scorer_pb2.READOUT_EXPECTED
        matrix = [reply.preference[4 * i : 4 * i + 4] for i in range(4)]
        assert matrix[2][0] == pytest.approx(preference(0.9, 0.4, 0.01, 0.01, 1e-6))
        assert matrix[0][3] == 0.5
        assert all(math.isnan(value) for value in matrix[1])

    def test_all_images_go_to_one_version(self, shared: tuple[FakeDeployment, Gateway], stub: Stub) -> None:
        scorer, gateway = shared
        old = gateway.routes
        changed = {"v7": "app-8", "v6": "app-6"}
        scorer.before = lambda request: old.replace("v7", changed)
        stub.Rank(scorer_pb2.RankRequest(images=[b"0.1"] * 8), timeout=10)
        old.replace("v7", {"v7": "app-7", "v6": "app-6"})
        assert set(scorer.applications) == {"app-7"}

    @pytest.mark.parametrize(
        ("fields", "code", "field"),
        [
            ({"images": [b"0.1"]}, grpc.StatusCode.INVALID_ARGUMENT, "images"),
            ({"images": [b"0.1"] * 9}, grpc.StatusCode.INVALID_ARGUMENT, "images"),
            ({"images": [b"0.1"] * 2, "model_version": "v1"}, grpc.StatusCode.NOT_FOUND, ""),
        ],
    )
    def test_what_cannot_be_ranked(self, stub: Stub, fields: dict, code: grpc.StatusCode, field: str) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Rank(scorer_pb2.RankRequest(**fields), timeout=5)
        assert caught.value.code() == code
        if field:
            assert details_of(caught.value)["BadRequest"].field_violations[0].field == field


def test_explain_streams_and_ends_with_the_score(stub: Stub, scorer: FakeDeployment) -> None:
    call = stub.Explain(scorer_pb2.ScoreRequest(image=b"held:0.5", request_id="mine"), timeout=10)
    assert next(call).rationale_delta == "soft "  # while the score is still to come
    scorer.release.set()
    rest = list(call)
    assert rest[0].rationale_delta == "light"
    assert (rest[1].response.score, rest[1].response.request_id) == (0.5, "mine")


def test_explain_fails_as_score_does(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Explain(scorer_pb2.ScoreRequest(image=b"bad"), timeout=5))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught.value)["BadRequest"].field_violations[0].field == "image"


def test_explain_is_cancelled_with_its_call(stub: Stub, scorer: FakeDeployment) -> None:
    for count in range(1, 61):  # a cancellation that meets a message on its way was lost in one of twenty
        call = stub.Explain(scorer_pb2.ScoreRequest(image=b"held:0.5"), timeout=10)
        next(call)
        assert until(lambda: len(scorer.seen) == count)  # noqa: B023
        call.cancel()
        assert until(lambda: scorer.cancelled == count)  # noqa: B023


def test_the_gateway_completes_what_the_model_says(stub: Stub) -> None:
    reply = stub.GetModel(scorer_pb2.GetModelRequest(), timeout=5)
    assert (reply.model_version, list(reply.models)) == ("v7", ["v7", "v6"])
    limits = reply.limits
    assert (limits.max_batch, limits.max_stream_in_flight, limits.max_samples) == (8, 4, 32)
    assert limits.max_message_bytes == 100_000
    assert stub.GetModel(scorer_pb2.GetModelRequest(model_version="v6"), timeout=5).model_version == "v6"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModel(scorer_pb2.GetModelRequest(model_version="v1"), timeout=5)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_default_that_changes_takes_the_next_call(shared: tuple[FakeDeployment, Gateway], stub: Stub) -> None:
    scorer, gateway = shared
    stub.Score(scorer_pb2.ScoreRequest(image=b"0.1"), timeout=5)
    gateway.routes.replace("v6", {"v7": "app-7", "v6": "app-6"})
    stub.Score(scorer_pb2.ScoreRequest(image=b"0.1"), timeout=5)
    gateway.routes.replace("v7", {"v7": "app-7", "v6": "app-6"})
    assert scorer.applications == ["app-7", "app-6"]
