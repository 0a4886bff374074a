"""Metrics of the gateway over HTTP on loopback, and its log line per call."""

from __future__ import annotations

import contextlib
import http.client
import socket
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import FakeDeployment, call_lines, gateway_on, settings_for, upstream_of

from rapo.errors import ResourceError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.gateway import bulk
from services.gateway.server import Gateway
from services.gateway.tokens import token_line

SECRET_IMAGE = b"0.123456"


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], str]:
    """The samples and the log after a little of everything."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    tokens.write_text(token_line("web", "t-web"))
    known = {"metadata": (("authorization", "Bearer t-web"),), "timeout": 5}
    with call_lines() as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_FIRST_PAUSE_S", 0.01)
        with gateway_on(FakeDeployment(), tokens=tokens, metrics_port=0) as gateway:
            with grpc.insecure_channel(gateway.address) as channel:
                stub = scorer_pb2_grpc.AestheticScorerStub(channel)
                for image in (SECRET_IMAGE, b"0.9", b"bad", b"silent"):
                    call = stub.Score.future(scorer_pb2.ScoreRequest(image=image, request_id="mine"), **known)
                    call.exception()
                items = [scorer_pb2.ScoreRequest(image=image, request_id=image.decode()) for image in (b"0.5", b"busy")]
                stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=items), **known)
                for metadata in ((), (("authorization", "Bearer guessed-token"),)):
                    stub.Score.future(scorer_pb2.ScoreRequest(), metadata=metadata, timeout=5).exception()
                stub.Score.future(scorer_pb2.ScoreRequest(request_id="a\nb c"), **known).exception()
            page = urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/metrics", timeout=5).read().decode()
    samples = {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    return samples, "\n".join(lines)


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        ("rapo_calls_total|OK|Score", 2),
        ("rapo_calls_total|FAILED_PRECONDITION|Score", 1),
        ("rapo_calls_total|OK|ScoreBatch", 1),
        ("rapo_calls_total|UNAUTHENTICATED|any", 2),
        ("rapo_call_seconds_count|Score", 5),
        ("rapo_images_total|OK", 3),
        ("rapo_images_total|RESOURCE_EXHAUSTED", 5),
        ("rapo_client_images_total|web", 7),
        ("rapo_bulk_retries_total", 4),
        ("rapo_parse_failures_total|no_answer", 1),
        ("rapo_refusals_total|unknown_format", 1),
        ("rapo_completion_tokens_total", 12),
        ("rapo_stage_seconds_count|queue", 3),
        ("rapo_stage_seconds_sum|generate", 0.009),
        ("rapo_score_bucket|0.15|v7", 1),
        ("rapo_score_bucket|0.5|v7", 2),
        ("rapo_score_count|v7", 3),
        ("rapo_calls_under_way|Score", 0),
        ("rapo_images_under_way", 0),
        ("rapo_serving", 1),
    ],
)
def test_what_happened_is_counted(observed: tuple[dict[str, float], str], sample: str, value: float) -> None:
    assert observed[0][sample] == pytest.approx(value)


def test_each_call_has_a_line_under_its_id(observed: tuple[dict[str, float], str]) -> None:
    lines = observed[1].splitlines()
    good = [line for line in lines if line.startswith("call=Score id=mine client=web code=OK reason=- images=1 ")]
    assert len(good) == 2
    assert "code=INVALID_ARGUMENT reason=unknown_format" in observed[1]
    assert "image id=0.5 call_id=" in observed[1]
    assert "code=RESOURCE_EXHAUSTED reason=queue_full" in observed[1]
    assert all(line.startswith(("call=", "image ")) for line in lines)


def test_neither_images_nor_tokens_nor_odd_ids_are_logged(observed: tuple[dict[str, float], str]) -> None:
    for text in (SECRET_IMAGE.decode(), "t-web", "guessed-token", "the-secret", "a\nb", "soft light"):
        assert text not in observed[1]


def test_the_page_is_on_loopback_only_and_a_taken_port_is_named() -> None:
    with upstream_of(FakeDeployment()) as upstream, socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"{port}.*metrics_port"):
            Gateway(settings_for(upstream, metrics_port=port)).start()
        with Gateway(settings_for(upstream, metrics_port=0)) as gateway:
            assert gateway._page is not None
            assert gateway._page._server.server_address[0] == "127.0.0.1"
            page = gateway.metrics_port
            for host, status in ((f"localhost:{page}", 200), (f"evil.example:{page}", 403), ("127.0.0.1:1", 403)):
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page, timeout=5)) as connection:
                    connection.request("GET", "/metrics", headers={"Host": host})
                    answer = connection.getresponse()
                    assert (answer.status, b"rapo_calls" in answer.read()) == (status, status == 200)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", page))
