"""TLS, tokens and what is refused before a connection is made; certificates are made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from fake_scorer import FakeScorer, serving

from rapo.call_error import CallError
from rapo.client import ScorerClient
from rapo.connection import Connection, RetryPolicy
from rapo.errors import ConfigError


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem and, signed by it, server.pem and client.pem with their keys; other.pem is a CA that signed none of them."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "these tests make certificates with openssl: install it"
    folder = tmp_path_factory.mktemp("pki")

    def call(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    for name in ("ca", "other"):
        call("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    for name in ("server", "client"):
        call("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=DNS:scorer.example", "-addext", "basicConstraints=CA:FALSE",
             "-CA", "ca.pem", "-CAkey", "ca.key")  # fmt: skip
    return folder


def credentials(pki: Path, *, mutual: bool = False) -> grpc.ServerCredentials:
    pair = ((pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes())
    roots = (pki / "ca.pem").read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=mutual)


def quick(target: str, **arguments: object) -> ScorerClient:
    return ScorerClient(target, timeout=10, attempts=1, **arguments)  # type: ignore[arg-type]


def test_tls_and_a_token_let_in(pki: Path, tmp_path: Path) -> None:
    scorer = FakeScorer()
    scorer.token = "first"
    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    with (
        serving(scorer, credentials=credentials(pki)) as target,
        quick(target, ca=pki / "ca.pem", server_name="scorer.example", token_file=token_file) as client,
    ):
        assert client.score(b"42").score == 0.42
        scorer.token = "second"
        with pytest.raises(CallError, match="Give a token") as caught:
            client.score(b"42")
        assert caught.value.code == "UNAUTHENTICATED"
        token_file.write_text("second\n")  # changed without a new client
        assert client.score(b"42").score == 0.42


def test_a_client_certificate_lets_in(pki: Path) -> None:
    trust = {"ca": (pki / "ca.pem").read_bytes(), "server_name": "scorer.example"}
    with serving(FakeScorer(), credentials=credentials(pki, mutual=True)) as target:
        with quick(target, **trust, certificate=pki / "client.pem", key=pki / "client.key") as client:
            assert client.score(b"42").score == 0.42
        with quick(target, **trust) as client, pytest.raises(CallError) as caught:
            client.score(b"42")
        assert caught.value.code == "UNAVAILABLE"


def test_a_certificate_of_another_ca_or_name_is_told_apart(pki: Path) -> None:
    with serving(FakeScorer(), credentials=credentials(pki)) as target:
        with (
            quick(target, ca=pki / "other.pem", server_name="scorer.example") as client,
            pytest.raises(CallError, match="cannot be trusted"),
        ):
            client.model()
        with quick(target, ca=pki / "ca.pem") as client, pytest.raises(CallError, match="server_name"):
            client.model()
        with quick(target) as client, pytest.raises(CallError, match="give its CA"):
            client.model()
    with (
        serving(FakeScorer()) as target,
        quick(target, ca=pki / "ca.pem") as client,
        pytest.raises(CallError, match="Does it take TLS at all"),
    ):
        client.model()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "scorer.example"}, "HOST:PORT"),
        ({"target": "scorer.example:1", "token": "secret"}, "readable for everybody"),
        ({"token": "two words"}, "one word"),
        ({"token": "a", "token_file": "b"}, "not both"),
        ({"token_file": "no/such/file"}, "no/such/file"),
        ({"ca": "no/such/ca.pem"}, "no/such/ca.pem"),
        ({"ca": b"not pem"}, "holds no PEM"),
        ({"certificate": b"x"}, "needs its key"),
    ],
)
def test_what_cannot_work_is_told_at_once(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        quick(**{"target": "127.0.0.1:1", **arguments})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_a_token_may_go_to_this_machine_without_tls() -> None:
    for target in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/tmp/x"):
        assert Connection(target, RetryPolicy(), token="t").metadata() == (("authorization", "Bearer t"),)
