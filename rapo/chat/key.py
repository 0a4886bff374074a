"""Key of an endpoint: read from the environment, and from nowhere else."""

from __future__ import annotations

import os

from rapo.errors import ConfigError

#: What a client without a key sends; endpoints that want none ignore it.
NO_KEY = "none"


def read_key(name: str | None) -> str | None:
    """The key in the environment variable `name`; None where no key is wanted.

    Raises `ConfigError` where the variable is not set, or holds what no header can carry. The value
    is in no error.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {name} is not set on this machine; endpoint.key_env says that it holds the key"
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the environment variable {name} holds characters that no key can have")
    return key


def hide_key(text: str, key: str | None) -> str:
    """`text` without the key, which an endpoint may have quoted."""
    return text.replace(key, "***") if key else text
