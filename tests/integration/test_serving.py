"""The service for real: an embedded model in vLLM, behind Ray Serve, behind the gateway.

Each path has an image: the taught model calls dark ones 0.21, bright 0.87, and rambles at mid-grey.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import ray
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from ray import serve

from bench.fuzz_gateway import Tally, Until, attack
from cluster.remote.ray_session import log_folder
from rapo.client.sync import CallError, ScorerClient
from rapo.config import Config, load_config
from rapo.errors import ConfigError, ModelError, ResourceError, RoleError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.app import ScorerServer
from tests.integration.conftest import make_image
from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def config() -> Config:
    changes = ["port=0", "threads=1", "max_ongoing_requests=4", "max_queued_requests=24"]
    return load_config(overrides=[*(f"serve.{change}" for change in changes), "policy.max_completion_tokens=32"])


def jpeg(shade: int, side: int = 84) -> bytes:
    buffer = io.BytesIO()
    make_image(shade, side).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(config: Config, taught_model: Path, local_ray: None) -> Iterator[ScorerServer]:
    with ScorerServer(config, taught_model, "test-0") as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: ScorerServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield scorer_pb2_grpc.AestheticScorerStub(channel)


@pytest.fixture
def client(server: ScorerServer) -> Iterator[ScorerClient]:
    with ScorerClient(server.address, timeout=60) as client:
        yield client


def test_the_model_is_described(client: ScorerClient) -> None:
    model = client.model()
    assert model.model_version == "test-0"
    assert model.readouts == ("expected", "fast", "greedy", "sampled")
    assert model.max_completion_tokens == 32


def test_health_is_serving(server: ScorerServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(("shade", "score", "rationale"), [(20, 0.21, "a dark mood"), (230, 0.87, "soft light")])
def test_an_image_gets_its_score_and_why(client: ScorerClient, shade: int, score: float, rationale: str) -> None:
    result = client.score(jpeg(shade), request_id="mine")
    assert result.score == pytest.approx(score, abs=0.02)
    assert (result.rationale, result.model_version) == (rationale, "test-0")
    assert (result.readout, result.request_id) == ("expected", "mine")
    assert result.decode_ms > 0
    assert result.generate_ms > 0
    assert 0 < result.completion_tokens <= 32


def test_every_readout_reads_the_same_answer(stub: Any) -> None:
    def ask(readout: Any, **fields: Any) -> scorer_pb2.ScoreResponse:
        return stub.Score(scorer_pb2.ScoreRequest(image=jpeg(20), readout=readout, **fields), timeout=60)

    greedy, expected = ask(scorer_pb2.READOUT_GREEDY), ask(scorer_pb2.READOUT_EXPECTED)
    assert greedy.score == 0.21
    assert not greedy.HasField("std")
    assert expected.score == pytest.approx(0.21, abs=0.02)
    assert 0 < expected.std < 0.1
    assert expected.model_interval.low <= 0.21 <= expected.model_interval.high
    assert not expected.HasField("interval"), "the model's card has no calibration"
    first, second = (ask(scorer_pb2.READOUT_SAMPLED, samples=4) for _ in range(2))
    assert first.score == second.score == pytest.approx(0.21, abs=0.1)
    assert first.timings.completion_tokens > 2 * greedy.timings.completion_tokens
    fast = ask(scorer_pb2.READOUT_FAST)
    assert (fast.rationale, fast.readout) == ("", scorer_pb2.READOUT_FAST)
    assert fast.score == ask(scorer_pb2.READOUT_FAST).score


def test_the_rationale_is_streamed_and_then_the_score(stub: Any) -> None:
    *deltas, last = stub.Explain(scorer_pb2.ScoreRequest(image=jpeg(230), request_id="mine"), timeout=60)
    assert "".join(part.rationale_delta for part in deltas) == last.response.rationale == "soft light"
    assert last.response.request_id == "mine"
    assert last.response.score == stub.Score(scorer_pb2.ScoreRequest(image=jpeg(230)), timeout=60).score


def test_an_explanation_without_a_score_says_so(stub: Any) -> None:
    told: list[str] = []

    def listen() -> None:
        request = scorer_pb2.ScoreRequest(image=jpeg(128), readout=scorer_pb2.READOUT_GREEDY)
        for part in stub.Explain(request, timeout=60):
            told.append(part.rationale_delta)

    with pytest.raises(grpc.RpcError) as caught:
        listen()
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert dict(caught.value.trailing_metadata())["rapo-reason"] == "no_answer"
    assert "".join(told) == "strong colors"


def test_an_answer_without_a_number_is_no_score(client: ScorerClient) -> None:
    with pytest.raises(CallError, match="no score") as caught:
        client.score(jpeg(128), readout="greedy")
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "no_answer")


def test_the_expected_answer_is_read_where_none_was_begun(stub: Any, client: ScorerClient) -> None:
    forced, usual = client.score(jpeg(128)), client.score(jpeg(20))
    assert (forced.forced, usual.forced, 0.0 < forced.score < 1.0) == (True, False, True)
    assert forced.rationale == "strong colors"
    parts = list(stub.Explain(scorer_pb2.ScoreRequest(image=jpeg(128)), timeout=60))
    assert "".join(part.rationale_delta for part in parts) == "strong colors"
    assert parts[-1].response.score == forced.score


def test_the_answer_does_not_depend_on_company(client: ScorerClient) -> None:
    shades = list(range(5, 250, 20))
    alone = [outcome(client, jpeg(shade)) for shade in shades]
    assert len({told[0] for told in alone}) > len(shades) / 2
    with futures.ThreadPoolExecutor(16) as pool:
        crowded = list(pool.map(lambda shade: outcome(client, jpeg(shade)), shades * 3))
        assert crowded == alone * 3


def test_a_deadline_takes_the_work_out_of_the_engine(server: ScorerServer, stub: Any) -> None:
    def statistics() -> dict[str, int]:
        handle = serve.get_app_handle(server.applications[server.default])
        return handle.statistics.remote().result(timeout_s=30)

    before = statistics()["cancelled"]
    request = scorer_pb2.ScoreRequest(image=jpeg(128), readout=scorer_pb2.READOUT_SAMPLED, samples=32)
    for timeout in (0.1, 0.2, 0.4, 0.8, 1.6):  # until calls get as far as the engine in that time, and no further
        calls = [stub.Score.future(request, timeout=timeout) for _ in range(8)]
        codes = [call.exception(timeout=30) and call.exception().code() for call in calls]
        wait_for(lambda: statistics()["under_way"] == 0)
        if statistics()["cancelled"] > before:
            break
    assert statistics()["cancelled"] > before
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes


def replicas(server: ScorerServer, version: str) -> list[str]:
    start = f"SERVE_REPLICA::{server.applications[version]}#"
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["name"].startswith(start)]


def kill_replica(server: ScorerServer, version: str) -> None:
    (name,) = replicas(server, version)
    ray.kill(ray.get_actor(name, namespace="serve"))


@contextmanager
def callers(server: ScorerServer, count: int) -> Iterator[list[tuple[str, object]]]:
    """Callers with the shipped retry policy who never stop asking; `(request id, outcome)` of each
    call that has ended."""
    ended: list[tuple[str, object]] = []
    stop, numbers = threading.Event(), itertools.count()

    def call() -> None:
        with ScorerClient(server.address, timeout=90) as client:
            while not stop.is_set():
                request_id = f"caller-{next(numbers)}"
                try:
                    result = client.score(jpeg(20), request_id=request_id)
                    ended.append((request_id, (result.request_id, result.score)))
                except CallError as error:
                    ended.append((request_id, error))

    with futures.ThreadPoolExecutor(count) as pool:
        running = [pool.submit(call) for _ in range(count)]
        try:
            yield ended
        finally:
            stop.set()
        for one in running:
            one.result(120)


def wait_for(condition: Any, limit_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to it in time"
        time.sleep(0.1)


@pytest.mark.long
def test_no_call_fails_when_a_replica_dies_nor_when_a_version_takes_over(
    server: ScorerServer, client: ScorerClient, taught_model: Path
) -> None:
    alone = {shade: outcome(client, jpeg(shade)) for shade in range(5, 250, 40)}
    score = client.score(jpeg(20)).score
    with callers(server, 6) as ended:
        wait_for(lambda: len(ended) > 20)
        kill_replica(server, "test-0")
        count = len(ended)
        wait_for(lambda: len(ended) > count + 50)
        assert {shade: outcome(client, jpeg(shade)) for shade in alone} == alone, "another replica says the same"
        server.add(taught_model, "test-1")
        assert client.model().model_version == "test-0"
        server.set_default("test-1")
        server.remove("test-0")
        count = len(ended)
        wait_for(lambda: len(ended) > count + 50)
    assert len({request_id for request_id, _ in ended}) == len(ended)
    assert [one for one in ended if one[1] != (one[0], score)] == []
    assert client.model().model_version == client.score(jpeg(20)).model_version == "test-1"
    assert list(server.versions) == ["test-1"]


@pytest.mark.long
def test_a_version_that_does_not_start_changes_nothing(
    server: ScorerServer, client: ScorerClient, taught_model: Path, tmp_path: Path
) -> None:
    cut, broken = (Path(shutil.copytree(taught_model, tmp_path / name)) for name in ("cut", "broken"))
    (cut / "model.safetensors").write_bytes(b"nothing")
    (broken / "tokenizer.json").write_bytes(b"nothing")
    before = server.versions
    with pytest.raises(ModelError, match="is cut or damaged"):
        server.add(cut, "cut")
    with pytest.raises(RoleError, match="did not start"):
        server.add(broken, "broken")
    assert server.versions == before
    with pytest.raises(ConfigError, match="is not served"):
        server.set_default("broken")
    with pytest.raises(ConfigError, match="is the default"):
        server.remove(server.default)
    assert client.score(jpeg(20)).model_version == server.default


def outcome(client: ScorerClient, image: bytes) -> tuple[object, ...]:
    try:
        result = client.score(image)
    except CallError as error:
        return error.code, error.reason
    return result.score, result.rationale


def test_the_bulk_calls_agree_with_the_single_one(stub: Any, client: ScorerClient) -> None:
    shades = [20, 230, 128, *range(60, 110, 4)]
    alone = [outcome(client, jpeg(shade))[0] for shade in shades]
    requests = [scorer_pb2.ScoreRequest(image=jpeg(shade), request_id=f"r{shade}") for shade in shades]
    batch = stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=requests), timeout=60).results
    streamed = {result.request_id: told(result) for result in stub.ScoreStream(iter(requests), timeout=60)}
    assert [told(result) for result in batch] == [streamed[request.request_id] for request in requests] == alone
    images = [jpeg(shade) for shade in (20, 128, 230)]
    ranked = stub.Rank(scorer_pb2.RankRequest(images=images, readout=scorer_pb2.READOUT_GREEDY), timeout=60)
    assert [place.index for place in ranked.ranking] == [2, 0, 1]
    assert ranked.preference[2 * 3 + 0] > 0.9
    assert ranked.preference[0 * 3 + 2] == pytest.approx(1 - ranked.preference[2 * 3 + 0])


def told(result: Any) -> object:
    return result.response.score if result.HasField("response") else grpc_name(result.error.code)


def grpc_name(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def test_malformed_requests_get_their_status_from_the_real_thing(server: ScorerServer, client: ScorerClient) -> None:
    tally = Tally()
    asyncio.run(attack(server.address, Until(150), seed=11, tally=tally, lenient=True))
    assert tally.wrong == []
    assert {"OK", "INVALID_ARGUMENT"} <= tally.codes.keys()
    assert outcome(client, jpeg(20))[0] == pytest.approx(0.21, abs=0.02)


def test_too_many_at_once_are_told_to_come_back(server: ScorerServer, client: ScorerClient) -> None:
    score, _ = outcome(client, jpeg(20))
    with ScorerClient(server.address, attempts=1) as hasty, futures.ThreadPoolExecutor(100) as pool:
        told = [code for code, *_ in pool.map(lambda _: outcome(hasty, jpeg(20)), range(400))]
    assert set(told) == {score, "RESOURCE_EXHAUSTED"}
    assert outcome(client, jpeg(20))[0] == score


def test_a_replica_writes_its_log_rather_than_keeping_it(server: ScorerServer, client: ScorerClient) -> None:
    logs = Path(log_folder()) / "serve"
    name = f"replica_{server.applications[server.default]}_*.log"

    def lines() -> int:
        return sum(path.read_text().count("Score") for path in logs.glob(name))

    before, calls = lines(), 250
    for number in range(calls):
        assert outcome(client, b"no image %d" % number)[0] == "INVALID_ARGUMENT"
    deadline = time.monotonic() + 10
    while lines() - before < calls - 100 and time.monotonic() < deadline:  # it writes a hundred at a time
        time.sleep(0.1)
    assert lines() - before >= calls - 100


@pytest.mark.parametrize("image", [jpeg(0)[:400], b"", b"text", jpeg(0, side=8)])
def test_a_bad_image_is_an_invalid_argument(client: ScorerClient, image: bytes) -> None:
    with pytest.raises(CallError) as caught:
        client.score(image)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.reason
    assert "/" not in str(caught.value)


def test_a_image_of_many_bytes_comes_through(config: Config, client: ScorerClient) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
    assert buffer.tell() > 6 * 2**20
    answered = outcome(client, buffer.getvalue())
    assert isinstance(answered[0], float) or answered[0] == "FAILED_PRECONDITION", "it was judged"
    with pytest.raises(CallError, match="max_bytes allows") as caught:
        client.score(bytes(config.image.max_bytes + 1))
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "too_many_bytes")


def test_serve_own_port_refuses_whoever_lacks_the_secret(server: ScorerServer) -> None:
    for secret in ("", "guess"):
        with grpc.insecure_channel(f"127.0.0.1:{server.inner_port}") as channel:
            stub = scorer_pb2_grpc.AestheticScorerStub(channel)
            metadata = (
                ("application", server.applications[server.default]),
                *((("x-rapo-gateway", secret),) if secret else ()),
            )
            for call, request in (
                (stub.Score, scorer_pb2.ScoreRequest(image=jpeg(0))),
                (stub.GetModel, scorer_pb2.GetModelRequest()),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, metadata=metadata, timeout=30)
                assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_replicas_own_port_refuses_whoever_lacks_rays_token(server: ScorerServer) -> None:
    """It unpickles what it is sent: whoever gets in there can run code."""
    title = f"ray::ServeReplica:{server.applications[server.default]}:"
    (replica,) = [one for one in psutil.Process().children(recursive=True) if "".join(one.cmdline()).startswith(title)]
    ports = {c.laddr.port for c in replica.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")) for port in ports]
        calls = [c.unary_unary("/ray.serve.ASGIService/HandleRequest").future(b"", timeout=5) for c in channels]
        codes = {call.exception(timeout=30).code() for call in calls}
    assert grpc.StatusCode.UNAUTHENTICATED in codes


def test_reflection_is_off_everywhere(server: ScorerServer) -> None:
    for address in (server.address, f"127.0.0.1:{server.inner_port}"):
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_second_service_on_the_cluster_is_refused(server: ScorerServer, config: Config, taught_model: Path) -> None:
    with pytest.raises(ResourceError, match="already"):
        ScorerServer(config, taught_model, "other").__enter__()


def test_addresses_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without TLS and a token file or client CA"):
        ScorerServer(load_config(overrides=["serve.host=0.0.0.0"]), tmp_path, "v").__enter__()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"port {port} .*serve\.port"):
            ScorerServer(load_config(overrides=[f"serve.port={port}"]), tmp_path, "v").__enter__()
