"""A gateway that finds out itself what is served, by several proxies, and says when it is ready."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import grpc
import pytest
from dns_server import DnsServer
from fake_serve import FakeServe, proxy_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import settings_for, until

from rapo.client import CallError, ScorerClient
from services.gateway import server as module
from services.gateway.routes import Routes
from services.gateway.server import Gateway

SECRET = "the-secret"


@contextmanager
def discovering(*upstreams: str, **options: object) -> Iterator[Gateway]:
    settings = settings_for(upstreams[0], metrics_port=0, **options)
    settings = replace(settings, upstreams=upstreams, secret=SECRET, routes=Routes(), discover=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PROBE_PERIOD_S", 0.05)
        patch.setattr(module, "_SEARCH_PERIOD_S", 0.05)
        with Gateway(settings) as gateway:
            yield gateway


def score(gateway: Gateway, version: str = "") -> str:
    with ScorerClient(gateway.address, timeout=5, attempts=1) as client:
        return client.score(b"0.5", model_version=version).model_version


def probe(gateway: Gateway, path: str) -> int:
    try:
        return int(urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}{path}", timeout=5).status)
    except urllib.error.HTTPError as error:
        return error.code


def health(gateway: Gateway) -> int:
    with grpc.insecure_channel(gateway.address) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status


def test_versions_come_and_go_with_what_serve_runs() -> None:
    served = FakeServe(SECRET, first="v1")
    with proxy_of(served) as address, discovering(address) as gateway:
        assert until(lambda: gateway.serving)
        assert score(gateway) == "v1", "the only version is the default"
        served.served["second"] = "v2"
        assert until(lambda: gateway.routes.versions() == ["v1", "v2"])
        assert (score(gateway, "v1"), score(gateway, "v2")) == ("v1", "v2")
        with pytest.raises(CallError, match=r"several model versions are served \(v1, v2\)") as caught:
            score(gateway)
        assert caught.value.code == "NOT_FOUND"
        del served.served["first"]
        assert until(lambda: gateway.routes.default == "v2")
        assert score(gateway) == "v2"


def test_the_default_that_the_settings_name() -> None:
    with proxy_of(FakeServe(SECRET, a="v1", b="v2")) as address, discovering(address, default_version="v2") as gateway:
        assert until(lambda: gateway.serving)
        assert score(gateway) == "v2"


def test_an_application_that_does_not_answer_for_a_while_keeps_its_version() -> None:
    served = FakeServe(SECRET, first="v1", other="v2")
    with proxy_of(served) as address, discovering(address, default_version="v1") as gateway:
        assert until(lambda: gateway.routes.versions() == ["v1", "v2"])
        served.served["other"] = ""
        seen = len(served.seen)
        with pytest.raises(CallError, match="starting or restarting"):
            score(gateway, "v2")
        assert gateway.routes.versions() == ["v1", "v2"]
        assert len(served.seen) == seen


def test_a_version_in_two_applications_stays_where_it_was() -> None:
    served = FakeServe(SECRET, new="v1")
    with proxy_of(served) as address, discovering(address) as gateway:
        assert until(lambda: gateway.serving)
        served.served = {"aside": "v1", "new": "v1"}
        assert not until(lambda: gateway.routes.resolve("v1") != "new", 0.5)
        served.served = {"aside": "v1"}
        assert until(lambda: gateway.routes.resolve("v1") == "aside")


def test_it_is_ready_when_the_scorer_answers_and_alive_before() -> None:
    served = FakeServe(SECRET, first="v1")
    with ExitStack() as stack:
        with proxy_of(served) as address:
            port = int(address.rpartition(":")[2])
        gateway = stack.enter_context(discovering(address))
        assert (probe(gateway, "/livez"), probe(gateway, "/readyz")) == (200, 503)
        assert health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(CallError, match="starting or restarting") as caught:
            score(gateway)
        assert caught.value.code == "UNAVAILABLE", "a client tries again"
        with proxy_of(served, port):
            assert until(lambda: gateway.serving)
            assert probe(gateway, "/readyz") == 200
            assert health(gateway) == health_pb2.HealthCheckResponse.SERVING
            assert score(gateway) == "v1"
        assert until(lambda: not gateway.serving)
        assert (probe(gateway, "/livez"), probe(gateway, "/readyz")) == (200, 503)
        assert gateway.routes.versions() == ["v1"], "no answer is no news"


def test_a_gateway_that_drains_is_not_ready_again() -> None:
    served = FakeServe(SECRET, first="v1")
    with (
        proxy_of(served) as address,
        discovering(address, grace_s=20.0) as gateway,
        ScorerClient(gateway.address, timeout=20) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        assert until(lambda: gateway.serving)
        held = pool.submit(client.score, b"held:0.75")
        assert until(lambda: served.in_flight == 1)
        stopped = pool.submit(gateway.stop)
        assert until(lambda: probe(gateway, "/readyz") == 503)
        assert not until(lambda: gateway.serving, 0.5), "the scorer answers, but no call is taken"
        served.release.set()
        assert held.result(10).score == 0.75
        stopped.result(10)


def test_calls_are_shared_among_proxies_and_pass_by_one_that_is_gone() -> None:
    one, two = FakeServe(SECRET, app="v1"), FakeServe(SECRET, app="v1")
    with ExitStack() as stack, proxy_of(two) as second:
        with proxy_of(one) as first:
            gateway = stack.enter_context(discovering(first, second))
            assert until(lambda: gateway.serving)
            with ScorerClient(gateway.address, timeout=5, attempts=1) as client:
                assert until(lambda: bool(client.score(b"0.5")) and one.calls > 3 and two.calls > 3)
        assert until(lambda: gateway.serving)
        with ScorerClient(gateway.address, timeout=5, attempts=3) as client:
            assert [client.score(b"0.25").score for _ in range(20)] == [0.25] * 20


def test_the_cluster_is_reached_past_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with proxy_of(FakeServe(SECRET, app="v1")) as address:
        monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
        with discovering(address) as gateway:
            assert until(lambda: gateway.serving)


def test_replicas_with_another_secret_are_not_served() -> None:
    with proxy_of(FakeServe("another", app="v1")) as address, discovering(address) as gateway:
        assert not until(lambda: gateway.serving, 0.5)
        assert gateway.routes.versions() == []


def test_a_name_is_looked_up_anew_when_its_proxy_is_gone() -> None:
    """As of a headless service whose pod is replaced: the same port at another address."""
    old, new = FakeServe(SECRET, app="v1"), FakeServe(SECRET, app="v1")
    with ExitStack() as stack:
        first = ExitStack()
        port = int(first.enter_context(proxy_of(old, host="127.0.0.2")).rpartition(":")[2])
        stack.callback(first.close)
        dns = stack.enter_context(DnsServer("rapo-serve.test", "127.0.0.2").running())
        gateway = stack.enter_context(discovering(f"dns://127.0.0.1:{dns.port}/{dns.name}:{port}"))
        assert until(lambda: gateway.serving)
        assert (score(gateway), old.calls) == ("v1", 1)
        stack.enter_context(proxy_of(new, port, "127.0.0.3"))
        dns.addresses = ("127.0.0.3",)
        first.close()

        def answered() -> bool:
            try:
                return score(gateway) == "v1"
            except CallError:
                return False

        # gRPC's own pause between two look-ups is 30 s.
        assert until(answered, 15)
        assert new.calls
