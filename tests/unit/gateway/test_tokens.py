"""Tokens: the file's format, what is compared, and rotation."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

import pytest

from cluster.cli.serving.token import token_for
from rapo.errors import ConfigError
from services.gateway.tokens import Tokens, new_token, read_tokens, token_line


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(
        "\n".join(("# callers", token_line("web", "t-web"), f'bulk = ["{digest("old")}", "{digest("new")}"]'))
    )
    return path


def test_a_token_names_its_client(path: Path) -> None:
    tokens = Tokens(path)
    assert tokens.client_of("Bearer t-web") == tokens.client_of(b"bearer  t-web ") == "web"
    assert tokens.client_of("Bearer old") == tokens.client_of("Bearer new") == "bulk"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "t-web", "Basic t-web", "Bearer t-we", "Bearer t-webb", "Bearer T-WEB",
               b"Bearer \xff\xfe", "Bearer " + digest("t-web"), "Bearer t-web" + " " * 600]
)  # fmt: skip
def test_anything_else_names_no_client(path: Path, header: str | bytes | None) -> None:
    assert Tokens(path).client_of(header) is None


def test_every_entry_is_compared_for_every_caller(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def watching(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return real(a, b)

    tokens = Tokens(path)
    monkeypatch.setattr(hmac, "compare_digest", watching)
    for header in ("Bearer t-web", "Bearer unknown", "nonsense", None):
        compared.clear()
        tokens.client_of(header)
        assert len(compared) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no token"),
        ("web = ", "TOML"),
        ("web = 'secret-token-in-clear'", "web needs the SHA-256"),
        (f"web = '{digest('a').upper()}'", "lower case"),
        ("web = 5", "SHA-256"),
        ("web = []", "SHA-256"),
        (f"'w b' = '{digest('a')}'", "'w b'"),
        (f"[web]\nx = '{digest('a')}'", "SHA-256"),
        (f"a = '{digest('a')}'\nb = '{digest('a')}'", "b and a have the same token"),
        ("\0", "TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value)
    assert "secret-token-in-clear" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Tokens(tmp_path / "none.toml")


def test_a_change_is_taken_up_and_a_broken_one_is_not(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokens(path)
    assert not tokens.file.refresh()
    aside = path.with_suffix(".new")
    aside.write_text(token_line("web", "second"))
    os.replace(aside, path)
    assert tokens.file.refresh()
    assert (tokens.client_of("Bearer second"), tokens.client_of("Bearer t-web")) == ("web", None)
    for broken in ("web = 'no hash at all'", ""):
        path.write_text(broken)
        with caplog.at_level(logging.ERROR):
            assert not tokens.file.refresh()
    path.unlink()
    assert not tokens.file.refresh()
    assert not tokens.file.refresh()
    assert tokens.file.failures == 3
    assert "old content stays in force" in caplog.text
    assert "no hash at all" not in caplog.text
    assert tokens.client_of("Bearer second") == "web"
    path.write_text(token_line("web", "third"))
    assert tokens.file.refresh()
    assert (tokens.client_of("Bearer third"), tokens.client_of("Bearer second")) == ("web", None)


def test_the_command_prints_a_token_and_its_line(tmp_path: Path) -> None:
    printed = token_for("web").splitlines()
    token, line = printed[1].strip(), printed[3].strip()
    path = tmp_path / "tokens.toml"
    path.write_text(line)
    assert Tokens(path).client_of(f"Bearer {token}") == "web"
    assert token not in line
    assert len({new_token() for _ in range(50)}) == 50
    with pytest.raises(ConfigError, match="letters"):
        token_for("a.b")
