"""Tokens: the bearer tokens of callers. The server knows only their SHA-256, so that reading the
file gives no access.

    # tokens.toml: a client's name, and the hash of its token.
    # Two hashes while one replaces the other.
    web = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    bulk = ["...", "..."]

A plain hash is enough because `new_token` makes tokens of 256 random bits: there is nothing to
guess them from.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from rapo.errors import ConfigError
from services.gateway.reloading import ReloadingFile, read_toml

# Names of clients are in logs and metrics, and bare keys in TOML.
_CLIENT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_SETTING = "serve.gateway.tokens"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SCHEME = "bearer "
# Far beyond what `new_token` makes; hashing what an unknown caller sends must stay cheap.
_MAX_TOKEN = 512


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def token_line(client: str, token: str) -> str:
    """The line of the tokens file for this client and token. Raises `ConfigError` for a name that
    cannot stand there."""
    _check_name(client, "the client's name")
    return f'{client} = "{hashlib.sha256(token.encode()).hexdigest()}"'


class Tokens:
    """The tokens file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self.file = ReloadingFile([path], lambda: read_tokens(path))

    def client_of(self, authorization: str | bytes | None) -> str | None:
        """The client whose token the header `authorization` holds; None if no known token is in it.

        The time that this takes does not reveal which entry matched, or how nearly: all digests are
        compared, each in constant time.
        """
        header = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization or ""
        known = header[: len(_SCHEME)].lower() == _SCHEME and len(header) <= _MAX_TOKEN
        given = hashlib.sha256(header[len(_SCHEME) :].strip().encode() if known else b"").digest()
        client = None
        for digest, name in self.file.value:
            if hmac.compare_digest(digest, given) and known:
                client = name
        return client


def read_tokens(path: Path) -> list[tuple[bytes, str]]:
    """The digests and their clients. Raises `ConfigError`, which names the entry, for a file that
    cannot be used."""
    entries: dict[bytes, str] = {}
    for client, value in read_toml(path, _SETTING).items():
        _check_name(client, f"{_SETTING} = {path}: the client")
        for text in _texts(value):
            if not _DIGEST.fullmatch(text):
                # Without the value itself: it may be the token, put there by mistake.
                raise ConfigError(
                    f"{_SETTING} = {path}: {client} needs the SHA-256 of its token as 64 hex digits in lower case; "
                    f"`rapo token {client}` prints such a line"
                )
            if (digest := bytes.fromhex(text)) in entries:
                raise ConfigError(f"{_SETTING} = {path}: {client} and {entries[digest]} have the same token")
            entries[digest] = client
    if not entries:
        raise ConfigError(f"{_SETTING} = {path}: it holds no token; `rapo token NAME` makes one and prints its line")
    return list(entries.items())


def _texts(value: object) -> Iterable[str]:
    values = value if isinstance(value, list) and value else [value]
    return [item if isinstance(item, str) else "" for item in values]


def _check_name(client: str, what: str) -> None:
    if not _CLIENT_NAME.fullmatch(client):
        raise ConfigError(f"{what} {client!r}: a name has 1 to 64 letters, digits, - and _")
