"""Tokens: `rapo token` makes a bearer token for a client of the scorer."""

from __future__ import annotations

from services.gateway.tokens import new_token, token_line


def token_for(client: str) -> str:
    """The text to print: the token, and its line of the tokens file, which holds only a hash.

    Raises `ConfigError` for a name that cannot stand in that file.
    """
    token = new_token()
    line = token_line(client, token)
    return (
        f"token of {client}; it is shown only once. The client sends it as `authorization: Bearer ...`:\n"
        f"  {token}\n"
        "line for the file of serve.gateway.tokens; a running server reads it within seconds:\n"
        f"  {line}"
    )
