"""`rapo token`: a new bearer token for a caller, and the line by which the server knows it."""

from __future__ import annotations

from services.gateway.tokens import new_token, token_line


def token_for(client: str) -> str:
    """What to print: the token, which nobody can see again, and its line of the tokens file.

    Raises `ConfigError` for a name that cannot stand there.
    """
    token = new_token()
    line = token_line(client, token)
    return (
        f"token of {client}, shown this once; give it to the caller, who sends it as `authorization: Bearer ...`:\n"
        f"  {token}\n"
        "line for the file of serve.gateway.tokens; a running server takes it up within seconds:\n"
        f"  {line}"
    )
