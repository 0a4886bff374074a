"""Access to the gateway: tokens, TLS, mTLS, and what a scan of the port reveals."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import Authority, FakeDeployment, details_of, gateway_on, settings_for, until, upstream_of

from rapo.config import ServeConfig
from rapo.errors import ConfigError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import SERVICE
from services.gateway import server as module
from services.gateway.exposure import check_access
from services.gateway.server import Gateway
from services.gateway.tokens import token_line

METHODS = [
    *(
        f"/{SERVICE}/{name}"
        for name in ("Score", "ScoreBatch", "ScoreStream", "Rank", "Explain", "GetModel", "Nothing")
    ),
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/ray.serve.RayServeAPIService/ListApplications",
    "/",
    "/x",
    "/a/b/c",
]
GOOD = (("authorization", "Bearer t-web"),)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(token_line("web", "t-web"))
    return path


def trusting(authority: Authority, identity: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    chain, key = (identity[0].read_bytes(), identity[1].read_bytes()) if identity else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate, key, chain)


def score(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> float:
    stub = scorer_pb2_grpc.AestheticScorerStub(channel)
    return stub.Score(scorer_pb2.ScoreRequest(image=b"0.5"), metadata=metadata, timeout=5).score


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


class TestScan:
    """A TLS gateway with tokens and every option on, as an unknown caller sees it."""

    @pytest.fixture(scope="class")
    def scanned(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Authority, FakeDeployment]]:
        folder, scorer = tmp_path_factory.mktemp("scan"), FakeDeployment()
        authority = Authority(folder)
        certificate, key = authority.issue("server")
        tokens = folder / "tokens.toml"
        tokens.write_text(token_line("web", "t-web"))
        with gateway_on(scorer, certificate=certificate, key=key, tokens=tokens, reflection=True) as gateway:
            yield gateway, authority, scorer

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "metadata",
        [
            (),
            (("authorization", "Bearer t-wec"),),
            (("authorization", "Basic dDp0"),),
            (("authorization", ""),),
            (("authorization", "Bearer t-web"), ("authorization", "Bearer x")),
            (("x-rapo-gateway", "the-secret"),),
        ],
    )
    def test_every_method_answers_unauthenticated(
        self,
        scanned: tuple[Gateway, Authority, FakeDeployment],
        method: str,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        gateway, authority, scorer = scanned
        with grpc.secure_channel(gateway.address, trusting(authority)) as channel:
            # One is larger than the server takes, and not even that is revealed.
            for body in (b"", b"\xff\xff", bytes(200_000), scorer_pb2.ScoreRequest(image=b"0.5").SerializeToString()):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(method)(body, metadata=metadata, timeout=5)
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
                assert details_of(caught.value)["ErrorInfo"].reason == "no_token"
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.stream_stream(method)(iter([b""]), metadata=metadata, timeout=5))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert scorer.seen == []

    def test_the_same_methods_answer_with_a_token(self, scanned: tuple[Gateway, Authority, FakeDeployment]) -> None:
        gateway, authority, _ = scanned
        with grpc.secure_channel(gateway.address, trusting(authority)) as channel:
            assert score(channel, GOOD) == 0.5
            health = health_pb2_grpc.HealthStub(channel)
            reply = health.Check(health_pb2.HealthCheckRequest(), metadata=GOOD, timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            listed = next(stub.ServerReflectionInfo(iter([request]), metadata=GOOD, timeout=5))
            assert SERVICE in {s.name for s in listed.list_services_response.service}
            unknown = channel.unary_unary(f"/{SERVICE}/Nothing")
            assert code_of(lambda: unknown(b"", metadata=GOOD, timeout=5)) == grpc.StatusCode.UNIMPLEMENTED

    def test_plaintext_gets_no_information(self, scanned: tuple[Gateway, Authority, FakeDeployment]) -> None:
        gateway = scanned[0]
        with grpc.insecure_channel(gateway.address) as channel:
            assert code_of(lambda: score(channel, GOOD)) in {
                grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
            }  # fmt: skip
        for hello in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 64):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as plain:
                plain.sendall(hello)
                plain.settimeout(5)
                try:
                    answer = plain.recv(4096)
                except ConnectionResetError:
                    answer = b""
                # A TLS alert at most: record type 21, two bytes.
                assert answer == b"" or (answer[0] == 21 and len(answer) <= 7)

    def test_old_protocols_are_refused(self, scanned: tuple[Gateway, Authority, FakeDeployment]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", scanned[0].port), timeout=5) as plain,
            pytest.raises((ssl.SSLError, ConnectionResetError)),
        ):
            context.wrap_socket(plain)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_token_is_required_without_tls_too_and_health_may_be_open(tokens: Path, is_open: bool) -> None:
    with (
        gateway_on(FakeDeployment(), tokens=tokens, health_without_token=is_open) as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        assert code_of(lambda: score(channel)) == grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(channel)
        if is_open:
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        else:
            request = health_pb2.HealthCheckRequest()
            assert code_of(lambda: health.Check(request, timeout=5)) == grpc.StatusCode.UNAUTHENTICATED


def test_a_new_token_is_taken_and_an_old_one_dies_while_it_runs(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FILES_PERIOD_S", 0.05)
    with gateway_on(FakeDeployment(), tokens=tokens) as gateway, grpc.insecure_channel(gateway.address) as channel:
        assert score(channel, GOOD) == 0.5
        tokens.write_text(token_line("web", "second"))
        second = (("authorization", "Bearer second"),)
        assert until_scored(channel, second)
        assert code_of(lambda: score(channel, GOOD)) == grpc.StatusCode.UNAUTHENTICATED
        tokens.write_text("broken")
        failures = gateway.metrics.reload_failures.labels("tokens")._value
        assert until(lambda: failures.get() == 1)
        assert score(channel, second) == 0.5


def until_scored(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> bool:
    def scored() -> bool:
        try:
            return score(channel, metadata) == 0.5
        except grpc.RpcError:
            return False

    return until(scored)


class TestTls:
    def test_a_renewed_certificate_is_used_without_a_restart(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_FILES_PERIOD_S", 0.05)
        certificate, key = authority.issue("server")

        def shown(port: int) -> bytes:
            return ssl.get_server_certificate(("127.0.0.1", port)).encode()

        with gateway_on(FakeDeployment(), certificate=certificate, key=key) as gateway:
            old = certificate.read_bytes()
            assert shown(gateway.port).split() == old.split()
            key.write_text("half a renewal")
            failures = gateway.metrics.reload_failures.labels("certificates")._value
            assert until(lambda: failures.get() == 1)
            assert shown(gateway.port).split() == old.split()
            authority.issue("server")
            new = certificate.read_bytes()
            assert until(lambda: shown(gateway.port).split() == new.split())
            with grpc.secure_channel(gateway.address, trusting(authority)) as channel:
                assert score(channel) == 0.5

    def test_mutual_tls_admits_only_its_own_clients_and_names_them(
        self, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        certificate, key = authority.issue("server")
        (tmp_path / "other").mkdir()
        unknown = Authority(tmp_path / "other")
        options = {"certificate": certificate, "key": key, "client_ca": authority.path}
        with gateway_on(FakeDeployment(), **options) as gateway, caplog.at_level(logging.INFO, "rapo.calls"):
            for credentials in (trusting(authority), trusting(authority, unknown.issue("web"))):
                with grpc.secure_channel(gateway.address, credentials) as channel:
                    assert code_of(lambda: score(channel)) == grpc.StatusCode.UNAVAILABLE
            with grpc.secure_channel(gateway.address, trusting(authority, authority.issue("web"))) as channel:
                assert score(channel) == 0.5
        assert "client=web code=OK" in caplog.text

    @pytest.mark.parametrize("broken", ["missing", "swapped", "other key", "empty", "ca"])
    def test_files_that_cannot_be_used_are_named(self, authority: Authority, tmp_path: Path, broken: str) -> None:
        certificate, key = authority.issue("server")
        ca = None
        if broken == "missing":
            os.unlink(key)
        elif broken == "swapped":
            certificate, key = key, certificate
        elif broken == "other key":
            key = authority.issue("other")[1]
        elif broken == "empty":
            certificate.write_text("")
        else:
            ca = tmp_path / "ca-empty.pem"
            ca.write_text("")
        with pytest.raises(ConfigError, match=r"serve\.gateway\.") as caught:
            Gateway(settings_for("127.0.0.1:1", certificate=certificate, key=key, client_ca=ca))
        assert str(tmp_path) in str(caught.value)


class TestAddress:
    def settings(self, host: str, **gateway: object) -> ServeConfig:
        return ServeConfig.model_validate({"host": host, "port": 0, "gateway": gateway})

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "::ffff:10.1.2.3"])
    def test_a_network_needs_tls_and_known_callers(self, authority: Authority, tokens: Path, host: str) -> None:
        certificate, key = authority.issue("server")
        tls = {"certificate": certificate, "key": key}
        for options, missing in (
            ({}, "TLS and a token file"),
            (tls, "without a token file"),
            ({"tokens": tokens}, "without TLS"),
        ):
            with pytest.raises(ConfigError, match=missing) as caught:
                check_access(self.settings(host, **options))
            assert "rapo token" in str(caught.value)
            (page,) = re.findall(r"docs/\S+\.md", str(caught.value))
            steps = (Path(__file__).parents[3] / page).read_text(encoding="utf-8")
            assert all(step in steps for step in ("-addext subjectAltName=", "rapo token ", "serve.gateway.tokens="))
        check_access(self.settings(host, **tls, tokens=tokens))
        check_access(self.settings(host, **tls, client_ca=authority.path))

    def test_tls_ends_at_a_mesh_or_at_the_gateway(self, authority: Authority, tokens: Path) -> None:
        certificate, key = authority.issue("server")
        check_access(self.settings("0.0.0.0", tls_at="mesh", tokens=tokens))
        with pytest.raises(ConfigError, match="without a token file"):
            check_access(self.settings("0.0.0.0", tls_at="mesh"))
        with pytest.raises(ConfigError, match="exclude each other"):
            check_access(self.settings("0.0.0.0", tls_at="mesh", tokens=tokens, certificate=certificate, key=key))

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
    def test_loopback_needs_nothing_but_says_what_is_wrong(self, authority: Authority, tokens: Path, host: str) -> None:
        certificate, key = authority.issue("server")
        check_access(self.settings(host))
        check_access(self.settings(host, tokens=tokens))
        tokens.write_text("broken")
        for options in (
            {"tokens": tokens},
            {"certificate": certificate},
            {"key": key},
            {"client_ca": authority.path},
            {"certificate": certificate, "key": certificate},
        ):
            with pytest.raises(ConfigError, match=r"serve\.gateway\."):
                check_access(self.settings(host, **options))

    def test_a_name_is_no_address(self) -> None:
        with pytest.raises(ConfigError, match="IP address"):
            check_access(self.settings("example.org"))


def test_sizes_and_rates_are_refused_with_a_delay(tokens: Path) -> None:
    scorer = FakeDeployment()
    with upstream_of(scorer) as upstream:
        settings = settings_for(upstream, tokens=tokens, rate=0.5, burst=3)
        with Gateway(settings) as gateway, grpc.insecure_channel(gateway.address) as channel:
            stub = scorer_pb2_grpc.AestheticScorerStub(channel)
            batch = scorer_pb2.ScoreBatchRequest(requests=[scorer_pb2.ScoreRequest(image=b"0.5")] * 3)
            assert len(stub.ScoreBatch(batch, metadata=GOOD, timeout=5).results) == 3
            ranked = scorer_pb2.RankRequest(images=[b"0.5"] * 2)
            one = scorer_pb2.ScoreRequest(image=b"0.5")
            for call in (
                lambda: stub.Score(one, metadata=GOOD, timeout=5),
                lambda: list(stub.Explain(one, metadata=GOOD, timeout=5)),
                lambda: stub.Rank(ranked, metadata=GOOD, timeout=5),
                lambda: stub.ScoreBatch(batch, metadata=GOOD, timeout=5),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                details = details_of(caught.value)
                assert details["ErrorInfo"].reason == "rate_limit"
                assert 0 < details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() <= 6
            assert len(scorer.seen) == 3


def test_too_many_calls_are_refused(tokens: Path) -> None:
    scorer = FakeDeployment()
    with gateway_on(scorer, max_calls=2) as gateway, grpc.insecure_channel(gateway.address) as channel:
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        held = [stub.Score.future(scorer_pb2.ScoreRequest(image=b"held:0.5"), timeout=10) for _ in range(2)]
        assert until(lambda: scorer.in_flight == 2)
        with pytest.raises(grpc.RpcError) as caught:
            score(channel)
        assert details_of(caught.value)["ErrorInfo"].reason == "too_many_calls"
        scorer.release.set()
        assert [call.result(5).score for call in held] == [0.5, 0.5]
        assert score(channel) == 0.5


def test_what_the_replicas_could_not_even_queue_is_not_passed_on() -> None:
    scorer = FakeDeployment()
    with gateway_on(scorer, max_in_flight=2) as gateway, grpc.insecure_channel(gateway.address) as channel:
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        held = [stub.Score.future(scorer_pb2.ScoreRequest(image=b"held:0.5"), timeout=10) for _ in range(2)]
        assert until(lambda: scorer.in_flight == 2)
        for call in (
            lambda: score(channel),
            lambda: list(stub.Explain(scorer_pb2.ScoreRequest(image=b"0.5"), timeout=5)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details_of(caught.value)["ErrorInfo"].reason == "queue_full"
            assert details_of(caught.value)["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
        other = scorer_pb2.ScoreRequest(image=b"0.4", model_version="v6")
        batch = scorer_pb2.ScoreBatchRequest(requests=[scorer_pb2.ScoreRequest(image=b"0.5"), other])
        refused, taken = stub.ScoreBatch(batch, timeout=5).results
        assert refused.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert taken.response.score == pytest.approx(0.4), "another version has a queue of its own"
        assert len(scorer.seen) == 3
        scorer.release.set()
        assert [call.result(5).score for call in held] == [0.5, 0.5]
        assert score(channel) == 0.5
