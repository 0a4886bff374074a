"""ScorerClient against a real gRPC server in this process, with a scripted service behind it."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple
from itertools import count, islice
from pathlib import Path

import pytest
from fake_scorer import FakeScorer, busy, serving, status
from google.rpc import code_pb2, status_pb2

from rapo.client import (
    CalibratedInterval,
    CallError,
    Dimension,
    FieldViolation,
    Interval,
    IntervalCalibration,
    NativeScale,
    Outcome,
    ScorerClient,
    ScoreResult,
)
from rapo.client.messages import model_info
from rapo.errors import ConfigError, ImageError, ServiceError
from rapo.v1 import scorer_pb2

GONE = status(code_pb2.UNAVAILABLE, "not now", "stopping")


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def target(scorer: FakeScorer) -> Iterator[str]:
    with serving(scorer) as target:
        yield target


@pytest.fixture
def client(target: str) -> Iterator[ScorerClient]:
    with ScorerClient(target, timeout=10, initial_backoff=0.01, max_backoff=0.05) as client:
        yield client


def images(folder: Path, contents: list[str]) -> list[Path]:
    paths = [folder / f"{index}.jpg" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return paths


def scores(outcomes: list[Outcome] | tuple[Outcome, ...]) -> list[float | None]:
    return [outcome.result.score if outcome.result is not None else None for outcome in outcomes]


def test_bytes_and_paths_give_a_typed_result(client: ScorerClient, scorer: FakeScorer, tmp_path: Path) -> None:
    result = client.score(b"42")
    assert (result.score, result.rationale, result.model_version) == (0.42, "soft light", "v7")
    assert (result.readout, result.std, result.native_score, result.dimensions) == ("expected", 0.1, None, ())
    assert isinstance(result.interval, CalibratedInterval)
    assert astuple(result.interval) == pytest.approx((0.12, 0.52, 0.9))
    assert isinstance(result.model_interval, Interval)
    assert astuple(result.model_interval) == pytest.approx((0.22, 0.62))
    assert (result.decode_ms, result.queue_ms, result.generate_ms, result.completion_tokens) == (1, 2, 3, 4)
    assert result.request_id == scorer.requests[0].request_id != ""
    path = images(tmp_path, ["7"])[0]
    assert client.score(path).score == client.score(str(path)).score == 0.07
    assert client.score(b" 42").cached
    assert client.score(b"42 ").forced
    assert (result.cached, result.forced) == (False, False)


def test_every_option_reaches_the_service(client: ScorerClient, scorer: FakeScorer) -> None:
    result = client.score(
        b"50", readout="greedy", native_scale="ava", dimensions=True, model_version="v6", request_id="mine"
    )
    assert (result.readout, result.std, result.interval, result.model_interval) == ("greedy", None, None, None)
    assert (result.native_score, result.model_version, result.request_id) == (5.5, "v6", "mine")
    assert result.dimensions == (Dimension("light and shadow", "soft light"),)
    assert client.score(b"50", rationale=False, readout="sampled", samples=3).rationale == ""
    assert scorer.requests[-1].samples == 3


def test_an_unknown_readout_is_refused_before_anything_is_sent(client: ScorerClient, scorer: FakeScorer) -> None:
    with pytest.raises(ConfigError, match="expected, fast, greedy, sampled"):
        client.score(b"42", readout="best")
    with pytest.raises(ConfigError, match="best"):
        next(client.score_many([b"42"], readout="best"))
    assert not scorer.metadata


def test_model_tolerates_a_readout_it_does_not_know(client: ScorerClient) -> None:
    model = client.model()
    assert model.readouts == ("expected", "greedy", "readout-9")
    assert (model.model_version, model.score_range, model.models) == ("v7", (0.0, 1.0), ("v7", "v6"))
    assert (model.max_batch, model.max_stream_in_flight, model.max_samples) == (8, 4, 16)
    assert model.native_scales == (NativeScale("ava", 1, 10),)
    assert model.interval == IntervalCalibration(0.9, "expected", 256)
    # A model that was not calibrated, and a server from before there were intervals.
    assert model_info(scorer_pb2.GetModelResponse()).interval is None
    assert client.model("v6").model_version == "v6"


@pytest.mark.parametrize("failure", [busy(), GONE])
def test_passing_failures_are_retried(client: ScorerClient, scorer: FakeScorer, failure: status_pb2.Status) -> None:
    scorer.failures = [failure] * 3
    assert client.score(b"42").score == 0.42
    assert len(scorer.requests) == 4
    assert len({request.request_id for request in scorer.requests}) == 1


def test_a_retry_comes_no_sooner_than_the_service_named(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.failures = [busy(0.4)]
    began = time.monotonic()
    client.score(b"42")
    assert time.monotonic() - began >= 0.4


def test_a_delay_beyond_the_time_limit_is_not_waited_for(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.failures = [busy(30)]
    with pytest.raises(CallError, match="not now") as caught:
        client.score(b"42", timeout=5, request_id="mine")
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "queue_full")
    assert (caught.value.retry_delay, caught.value.request_id) == (30, "mine")
    assert len(scorer.requests) == 1


def test_exhaustion_that_will_not_pass_is_not_repeated(client: ScorerClient, scorer: FakeScorer) -> None:
    with pytest.raises(CallError) as caught:
        client.score(b" " * (5 * 2**20) + b"42")
    assert (caught.value.code, caught.value.retry_delay) == ("RESOURCE_EXHAUSTED", None)
    assert not scorer.requests


def test_large_images_are_retried_too(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.failures = [GONE, busy()]
    assert client.score(b" " * 3_000_000 + b"42").score == 0.42
    assert len(scorer.requests) == 3


def test_retries_end(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.failures = [GONE] * 50
    with pytest.raises(CallError, match="not now"):
        client.score(b"42")
    assert len(scorer.requests) == 5


def test_one_attempt_means_no_retry(target: str, scorer: FakeScorer) -> None:
    scorer.failures = [busy(), GONE]
    with ScorerClient(target, attempts=1) as client:
        for _ in range(2):
            with pytest.raises(CallError):
                client.score(b"42")
    assert len(scorer.requests) == 2


def test_refusals_are_not_retried_and_name_the_field(client: ScorerClient, scorer: FakeScorer) -> None:
    with pytest.raises(ServiceError, match="not an image") as caught:
        client.score(b"nonsense")
    assert isinstance(caught.value, CallError)
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "unknown_format")
    assert caught.value.violations == (FieldViolation("image", "not an image"),)
    assert len(scorer.requests) == 1


def test_the_error_survives_pickling() -> None:
    error = CallError(
        "words", code="X", reason="r", request_id="x", violations=(FieldViolation("f", "d"),), retry_delay=2.0
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.reason, copy.request_id) == ("words", "X", "r", "x")
    assert (copy.violations, copy.retry_delay) == (error.violations, 2.0)


def test_a_slow_server_hits_the_time_limit(target: str, scorer: FakeScorer) -> None:
    scorer.delay_s = 0.5
    with ScorerClient(target, timeout=0.2) as client, pytest.raises(CallError, match=r"within 0\.2 s"):
        client.score(b"42")


def test_an_address_without_a_service_says_what_to_do() -> None:
    with ScorerClient("127.0.0.1:1", timeout=5, attempts=1) as client, pytest.raises(ServiceError, match="rapo serve"):
        client.model()


def test_a_missing_file_is_an_image_error(client: ScorerClient, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        client.score(tmp_path / "gone.jpg")


def test_a_batch_keeps_the_order_and_its_faults_apart(client: ScorerClient, scorer: FakeScorer, tmp_path: Path) -> None:
    scorer.failures = [busy()]
    outcomes = client.score_batch([b"1", b"bad", tmp_path / "gone.jpg", b"4"], rationale=False)
    assert scores(outcomes) == [0.01, None, None, 0.04]
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    assert isinstance(outcomes[1].error, CallError)
    assert isinstance(outcomes[2].error, ImageError)
    # The image that met a full queue was sent again, and it alone, to the version of the others.
    assert [bytes(request.image) for request in scorer.requests] == [b"1", b"bad", b"4", b"1"]
    assert [request.model_version for request in scorer.requests] == ["", "", "", "v7"]


def test_a_ranking_is_best_first_with_preferences(client: ScorerClient) -> None:
    ranking = client.rank([b"20", b"bad", b"80"])
    assert [outcome.index for outcome in ranking.order] == [2, 0, 1]
    assert scores(ranking.order) == [0.8, 0.2, None]
    assert ranking.preference[2][0] == pytest.approx(1 - ranking.preference[0][2])
    assert ranking.preference[2][0] > 0.9
    assert math.isnan(ranking.preference[0][1])
    assert (ranking.model_version, ranking.readout) == ("v7", "expected")


def test_an_explanation_comes_in_pieces_and_then_the_result(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.failures = [busy()]
    *pieces, result = client.explain(b"42")
    assert pieces == ["soft ", "light"]
    assert isinstance(result, ScoreResult)
    assert (result.score, result.rationale) == (0.42, "soft light")
    with pytest.raises(CallError, match="not an image"):
        list(client.explain(b"bad"))


def test_many_keeps_the_order_and_survives_bad_images(client: ScorerClient, scorer: FakeScorer, tmp_path: Path) -> None:
    paths = images(tmp_path, [" " * (i % 4) + str(i) for i in range(30)])
    paths[5].write_text("bad")
    paths[11].unlink()
    paths[13].write_text("1" * (4 * 2**20))  # no message can hold it, and none is tried: it would break the stream
    scorer.delay_s = 0.01
    outcomes = list(client.score_many(paths))
    assert [outcome.image for outcome in outcomes] == paths
    assert [outcome.index for outcome in outcomes] == list(range(30))
    assert scores(outcomes) == [None if i in (5, 11, 13) else i / 100 for i in range(30)]
    assert all((outcome.result is None) != (outcome.error is None) for outcome in outcomes)
    assert scorer.streams == 1
    assert 1 < scorer.most_running <= 4


def test_a_stream_yields_what_is_ready_first(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.delay_s = 0.1
    order = [outcome.index for outcome in client.stream([b"10", b"1", b"2", b"3"])]  # the first takes longer
    assert sorted(order) == [0, 1, 2, 3]
    assert order != [0, 1, 2, 3]


def test_a_broken_stream_costs_nothing_but_sending_again(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.breaks = [3, 0, 7]
    scorer.failures = [busy(), status(code_pb2.UNAVAILABLE, "replica died", "lost", retry_s=0.01)]
    scorer.delay_s = 0.002
    outcomes = list(client.score_many([str(i).encode() for i in range(40)]))
    assert scores(outcomes) == [i / 100 for i in range(40)]
    assert scorer.streams == 4
    assert len(scorer.requests) >= 42


def test_many_survives_a_restart_of_the_service(scorer: FakeScorer) -> None:
    scorer.delay_s = 0.005
    first = serving(scorer)
    target = first.__enter__()
    with ScorerClient(target, timeout=20, initial_backoff=0.02, max_backoff=0.2) as client:
        stream = client.score_many(str(i % 100).encode() for i in range(120))
        got = list(islice(stream, 20))
        stopper = threading.Thread(target=first.__exit__, args=(None, None, None))
        stopper.start()
        stopper.join(10)
        with serving(scorer, port=int(target.rpartition(":")[2])):
            got += list(stream)
    assert scores(got) == [i % 100 / 100 for i in range(120)]
    assert scorer.streams >= 2


def test_a_service_that_is_gone_ends_a_bulk_job(scorer: FakeScorer) -> None:
    with serving(scorer) as target:
        # Long pauses, so that the limit ends one of them and not a try.
        client = ScorerClient(target, timeout=4.0, initial_backoff=1.0, max_backoff=1.0)
        stream = client.score_many(b"1" for _ in count())
        next(stream)
    with client, pytest.raises(CallError, match="no scoring service answers"):
        list(stream)


def test_a_service_that_goes_silent_ends_a_bulk_job(target: str, scorer: FakeScorer) -> None:
    scorer.delay_s = 2.0
    with ScorerClient(target, timeout=1.0) as client, pytest.raises(CallError, match="none of 2 images within 1 s"):
        list(client.score_many([b"1", b"2"]))


def test_a_refused_stream_is_not_opened_again(client: ScorerClient, scorer: FakeScorer) -> None:
    scorer.stream_refusal = status(code_pb2.UNAUTHENTICATED, "the token has expired", "no_token")
    with pytest.raises(CallError, match="token") as caught:
        list(client.score_many([b"1", b"2"]))
    assert (caught.value.code, scorer.streams) == ("UNAUTHENTICATED", 1)


def test_many_reads_no_further_ahead_than_it_must(client: ScorerClient, tmp_path: Path) -> None:
    path = images(tmp_path, ["1"])[0]
    taken = count()
    endless = (path for _ in taken)
    stream = client.score_many(endless, in_flight=2)
    assert [outcome.image for outcome in islice(stream, 10)] == [path] * 10
    stream.close()
    assert next(taken) <= 10 + 4 * 2 + 2


def test_several_channels_are_taken_in_turn(target: str, scorer: FakeScorer) -> None:
    with ScorerClient(target, channels=3) as client:
        assert [client.score(b"42").score for _ in range(6)] == [0.42] * 6


def test_the_client_imports_nothing_heavy() -> None:
    heavy = ("numpy", "PIL", "pydantic", "tomli_w", "torch", "ray", "vllm", "rich", "typer")
    code = (
        "import sys, rapo; rapo.ScorerClient('127.0.0.1:1'); rapo.AsyncScorerClient('127.0.0.1:1'); "
        f"sys.exit(','.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
