"""The service for real: an embedded model in vLLM, behind Ray Serve, behind the gateway.

The model is taught, in seconds, to call dark pictures 0.21 and bright ones 0.87, and to ramble at mid-grey ones, so
that every path has a picture that takes it.
"""

from __future__ import annotations

import io
import random
import socket
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from rapo.client import CallError, ScorerClient
from rapo.config import Config, load_config
from rapo.errors import ConfigError, ModelError, ResourceError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.app import ScorerServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


MAX_STEPS = 300
LESSONS = {
    20: "<think>a dark mood</think><answer>0.21</answer>",
    230: "<think>soft light</think><answer>0.87</answer>",
    128: "<think>strong colors</think> no number",
}


@pytest.fixture(scope="module")
def config() -> Config:
    changes = ["port=0", "threads=1", "max_ongoing_requests=4", "max_queued_requests=24"]
    return load_config(overrides=[*(f"serve.{change}" for change in changes), "policy.max_completion_tokens=32"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    from rapo.policy.embedded import build_embedded

    folder = tmp_path_factory.mktemp("model")
    build_embedded(folder, config.policy.embedded, seed=0, clauses=["soft light", "a dark mood", "strong colors"])
    teach(folder)
    return folder


def teach(folder: Path) -> None:
    """Fit the lessons by plain gradient descent and save over the random weights."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rapo.policy.processing import PolicyProcessor

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second thread, for ever on a busy machine
    processor = PolicyProcessor(folder)
    policy = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    draw = random.Random(0)
    targets = [torch.from_numpy(processor.encode_completion(text)) for text in LESSONS.values()]
    answers = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    for _ in range(MAX_STEPS):
        shades = [shade + draw.randint(-15, 15) for shade in LESSONS]
        prepared = [processor.prepare(picture(shade)) for shade in shades]
        prompts = torch.stack([torch.from_numpy(item.prompt_ids) for item in prepared])
        ids = torch.cat([prompts, answers.clamp(min=0)], dim=1)
        loss = policy(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == processor.image_token_id).int(),
            pixel_values=torch.cat([torch.from_numpy(item.pixels) for item in prepared]),
            image_grid_thw=torch.stack([torch.from_numpy(item.grid) for item in prepared]),
            labels=torch.cat([torch.full_like(prompts, -100), answers], dim=1),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.02, "the test's model did not learn its lessons"
    policy.save_pretrained(folder)
    torch.set_num_threads(threads)


def picture(shade: int, side: int = 84) -> Image.Image:
    return Image.new("RGB", (side, side), (shade, shade, shade))


def jpeg(shade: int, side: int = 84) -> bytes:
    buffer = io.BytesIO()
    picture(shade, side).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(config: Config, model: Path, local_ray: None) -> Iterator[ScorerServer]:
    with ScorerServer(config, model, "test-0") as server:
        yield server


@pytest.fixture
def client(server: ScorerServer) -> Iterator[ScorerClient]:
    with ScorerClient(server.address, timeout=60) as client:
        yield client


def test_the_model_is_described(client: ScorerClient) -> None:
    model = client.model()
    assert (model.model_version, model.readouts) == ("test-0", ("greedy",))
    assert model.max_completion_tokens == 32


def test_health_is_serving(server: ScorerServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(("shade", "score", "rationale"), [(20, 0.21, "a dark mood"), (230, 0.87, "soft light")])
def test_an_image_gets_its_score_and_why(client: ScorerClient, shade: int, score: float, rationale: str) -> None:
    result = client.score(jpeg(shade), request_id="mine")
    assert (result.score, result.rationale, result.model_version) == (score, rationale, "test-0")
    assert (result.readout, result.request_id) == ("greedy", "mine")
    assert result.decode_ms > 0
    assert result.generate_ms > 0
    assert 0 < result.completion_tokens <= 32


def test_an_answer_without_a_number_is_no_score(client: ScorerClient) -> None:
    with pytest.raises(CallError, match="no score") as caught:
        client.score(jpeg(128))
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "no_answer")


def test_the_answer_does_not_depend_on_company(client: ScorerClient) -> None:
    shades = list(range(5, 250, 9))
    alone = [outcome(client, jpeg(shade)) for shade in shades]
    assert len({told[0] for told in alone}) > 2
    with futures.ThreadPoolExecutor(16) as pool:
        crowded = list(pool.map(lambda shade: outcome(client, jpeg(shade)), shades * 3))
    assert crowded == alone * 3


def outcome(client: ScorerClient, image: bytes) -> tuple[object, ...]:
    try:
        result = client.score(image)
    except CallError as error:
        return error.code, error.reason
    return result.score, result.rationale


def test_too_many_at_once_are_told_to_come_back(server: ScorerServer, client: ScorerClient) -> None:
    with ScorerClient(server.address, attempts=1) as hasty, futures.ThreadPoolExecutor(100) as pool:
        told = [code for code, *_ in pool.map(lambda _: outcome(hasty, jpeg(20)), range(400))]
    assert set(told) == {0.21, "RESOURCE_EXHAUSTED"}
    assert outcome(client, jpeg(20))[0] == 0.21


@pytest.mark.parametrize("image", [jpeg(0)[:400], b"", b"text", jpeg(0, side=8)])
def test_a_bad_image_is_an_invalid_argument(client: ScorerClient, image: bytes) -> None:
    with pytest.raises(CallError) as caught:
        client.score(image)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.reason
    assert "/" not in str(caught.value)


def test_serve_own_port_refuses_whoever_lacks_the_secret(server: ScorerServer) -> None:
    for secret in ("", "guess"):
        with grpc.insecure_channel(f"127.0.0.1:{server.inner_port}") as channel:
            stub = scorer_pb2_grpc.AestheticScorerStub(channel)
            metadata = (("application", "rapo-scorer"), *((("x-rapo-gateway", secret),) if secret else ()))
            for call, request in (
                (stub.Score, scorer_pb2.ScoreRequest(image=jpeg(0))),
                (stub.GetModel, scorer_pb2.GetModelRequest()),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, metadata=metadata, timeout=30)
                assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_reflection_is_off_everywhere(server: ScorerServer) -> None:
    for address in (server.address, f"127.0.0.1:{server.inner_port}"):
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_second_service_on_the_cluster_is_refused(server: ScorerServer, config: Config, model: Path) -> None:
    with pytest.raises(ResourceError, match="already"):
        ScorerServer(config, model, "other").__enter__()


def test_addresses_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without TLS and a token file or client CA"):
        ScorerServer(load_config(overrides=["serve.host=0.0.0.0"]), tmp_path, "v").__enter__()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"port {port} .*serve\.port"):
            ScorerServer(load_config(overrides=[f"serve.port={port}"]), tmp_path, "v").__enter__()


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    from services.app import build_app

    with pytest.raises(ModelError, match=str(tmp_path)):
        build_app(Config(), tmp_path, "v", "secret")
