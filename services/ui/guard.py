"""Guard: keeps the rest of the web out of a page on loopback.

- It refuses a Host header other than this address: a foreign name may resolve to loopback.
- It refuses a post without the Origin of its own pages.
- Its headers tell the browser what the page may load.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SAFE = frozenset({"GET", "HEAD"})


class Guard:
    """ASGI middleware for a page at `port`. What it refuses gets a 403."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no other protocol
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        origin = headers.get("origin")
        allowed = host in self.hosts and origin in (None, f"http://{host}")
        if scope["method"] not in _SAFE:
            # A browser sends the Origin of a page with every post.
            allowed = allowed and origin is not None

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self.app if allowed else PlainTextResponse("only for pages of this address", status_code=403)
        await answer(scope, receive, guarded)
