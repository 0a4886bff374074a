"""Connection: TLS, tokens, and arguments that are refused before a connection is made."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_scorer import FakeScorer, serving
from serving import Authority

from rapo.client import CallError, ScorerClient
from rapo.client.connection import Connection, RetryPolicy
from rapo.errors import ConfigError

quick = partial(ScorerClient, timeout=10, attempts=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def credentials(authority: Authority, *, mutual: bool = False) -> grpc.ServerCredentials:
    certificate, key = authority.issue("server")
    pair = (key.read_bytes(), certificate.read_bytes())
    roots = authority.certificate if mutual else None
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=mutual)


def test_tls_and_a_token_are_accepted(authority: Authority, tmp_path: Path) -> None:
    scorer = FakeScorer()
    scorer.token = "first"
    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    with (
        serving(scorer, credentials=credentials(authority)) as target,
        quick(target, ca=authority.path, token_file=token_file) as client,
    ):
        assert client.score(b"42").score == 0.42
        scorer.token = "second"
        with pytest.raises(CallError, match="Give a token") as caught:
            client.score(b"42")
        assert caught.value.code == "UNAUTHENTICATED"
        token_file.write_text("second\n", encoding="utf-8-sig")  # changed without a new client
        assert client.score(b"42").score == 0.42


def test_a_client_certificate_is_accepted(authority: Authority) -> None:
    certificate, key = authority.issue("client")
    with serving(FakeScorer(), credentials=credentials(authority, mutual=True)) as target:
        with quick(target, ca=authority.certificate, certificate=certificate, key=key) as client:
            assert client.score(b"42").score == 0.42
        with quick(target, ca=authority.certificate) as client, pytest.raises(CallError) as caught:
            client.score(b"42")
        assert caught.value.code == "UNAVAILABLE"


def test_a_certificate_of_another_ca_or_name_is_told_apart(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with serving(FakeScorer(), credentials=credentials(authority)) as target:
        with quick(target, ca=other.path) as client, pytest.raises(CallError, match="cannot be trusted"):
            client.model()
        with (
            quick(target, ca=authority.path, server_name="scorer.example") as client,
            pytest.raises(CallError, match="a name that is in it"),
        ):
            client.model()
        with quick(target) as client, pytest.raises(CallError, match=r"takes TLS only.*--ca FILE"):
            client.model()
    with (
        serving(FakeScorer()) as target,
        quick(target, ca=authority.path) as client,
        pytest.raises(CallError, match="Does it take TLS at all"),
    ):
        client.model()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "scorer.example"}, "HOST:PORT"),
        ({"target": "scorer.example:1", "token": "secret"}, "readable for everyone"),
        ({"token": "two words"}, "one word"),
        ({"token": "a", "token_file": "b"}, "not both"),
        ({"token_file": "no/such/file"}, "no/such/file"),
        ({"token_file": "null\0byte"}, "null byte"),
        ({"ca": "no/such/ca.pem"}, "no/such/ca.pem"),
        ({"ca": b"not pem"}, "holds no PEM"),
        ({"certificate": b"x"}, "needs its key"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        quick(**{"target": "127.0.0.1:1", **arguments})
    assert "secret" not in str(caught.value)


def test_a_token_may_go_to_this_machine_without_tls() -> None:
    for target in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/tmp/x"):
        assert Connection(target, RetryPolicy(), token="t").metadata() == (("authorization", "Bearer t"),)
