"""`rapo gateway` as a process: it finds its scorer, and a SIGTERM lets calls in flight finish."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_serve import FakeServe, proxy_of
from serving import until

from cluster.cli.serving.gateway import gateway_settings
from rapo.client import CallError, ScorerClient
from rapo.config import load_config
from rapo.errors import ConfigError, ResourceError
from tests.gateway_process import SECRET, gateway_process


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


@pytest.mark.timeout(60)
def test_two_gateways_of_one_scorer_one_of_them_told_to_go(secret_file: Path) -> None:
    served = FakeServe(SECRET, app="v1")
    with (
        proxy_of(served) as address,
        gateway_process(secret_file, address) as (first, first_address),
        gateway_process(secret_file, address) as (_, second_address),
        ScorerClient(first_address, timeout=20) as client,
        ScorerClient(second_address, timeout=20) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        # The client's own retries cover the time until the gateway has found the scorer.
        assert until(lambda: client.score(b"0.5").model_version == "v1", 20)
        held = pool.submit(client.score, b"held:0.75")
        assert until(lambda: served.in_flight == 1)
        first.send_signal(signal.SIGTERM)
        with ScorerClient(first_address, timeout=2, attempts=1) as late:
            assert until(lambda: _refused(late)), "a gateway that drains takes no more calls"
        assert other.score(b"0.25").score == 0.25
        served.release.set()
        assert held.result(10).score == 0.75
        assert first.wait(20) == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("mode", "next_line"), [(0o644, "every user of this machine can read"), (0o640, "draining")])
def test_a_secret_that_all_can_read_is_said(secret_file: Path, mode: int, next_line: str) -> None:
    secret_file.chmod(mode)
    with gateway_process(secret_file, "127.0.0.1:1") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert next_line in process.stdout.readline()


def _refused(client: ScorerClient) -> bool:
    try:
        client.score(b"0.5")
    except CallError as error:
        return error.code == "UNAVAILABLE"
    return False


@pytest.mark.parametrize("upstream", ["ray", "http://ray:9000", "ray:port", ":9000", "s3://ray:9000"])
def test_an_upstream_without_a_port_is_named(secret_file: Path, upstream: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(upstream)):
        gateway_settings(load_config(overrides=["serve.port=0"]), [upstream], secret_file)


def test_a_network_address_needs_tls_or_a_mesh_that_ends_it(secret_file: Path, tmp_path: Path) -> None:
    open_to_all = ["serve.port=0", "serve.host=0.0.0.0"]
    with pytest.raises(ConfigError, match="without TLS and a token file"):
        gateway_settings(load_config(overrides=open_to_all), ["ray:9000"], secret_file)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'web = "{"0" * 64}"\n')
    meshed = [*open_to_all, "serve.gateway.tls_at=mesh", f"serve.gateway.tokens={tokens}", "image.max_frames=7"]
    settings = gateway_settings(load_config(overrides=meshed), ["ray:9000", "[fd00::1]:9000"], secret_file)
    assert (settings.secret, settings.upstreams, settings.discover) == (SECRET, ("ray:9000", "[fd00::1]:9000"), True)
    assert settings.image.max_frames == 7


def test_a_taken_port_is_an_error_before_anything_starts(secret_file: Path) -> None:
    with proxy_of(FakeServe(SECRET)) as address:
        config = load_config(overrides=[f"serve.port={address.rpartition(':')[2]}"])
        with pytest.raises(ResourceError, match="in use"):
            gateway_settings(config, ["ray:9000"], secret_file)
