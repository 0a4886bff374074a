"""AuthInterceptor: refuses every call without a known token, before a byte of its message is read.

- It checks calls of every method, known or not, health and reflection included.
- A call with two authorization headers counts as one without a token: a proxy in front of the
  gateway might have checked the other one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import grpc

from services.gateway.metrics import Metrics
from services.gateway.tokens import Tokens
from services.statuses import Refusal, abort

_HEALTH = "/grpc.health.v1.Health/"
_UNAUTHENTICATED = Refusal(
    grpc.StatusCode.UNAUTHENTICATED, "this call needs a bearer token that the server knows", "no_token"
)
_UNFIT = re.compile(r"[^A-Za-z0-9._@-]")

# Set here, read by the handlers: gRPC runs both in one context for each call.
_client: ContextVar[str] = ContextVar("rapo_client", default="")


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """`tokens` None lets every call through; `health_open` exempts grpc.health.v1."""

    def __init__(self, tokens: Tokens | None, metrics: Metrics, *, health_open: bool) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self._health_open = health_open

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's own handler, or one that refuses the call."""
        if self._tokens is not None and not (self._health_open and handler_call_details.method.startswith(_HEALTH)):
            given = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
            client = self._tokens.client_of(given[0] if len(given) == 1 else None)
            if client is None:
                self._metrics.calls.labels("any", "UNAUTHENTICATED").inc()
                return _REFUSE
            _client.set(client)
        return await continuation(handler_call_details)


def client_of(context: grpc.aio.ServicerContext) -> str:
    """The caller's name: of its token, else of its certificate, else "local". Fit for logs."""
    if name := _client.get():
        return name
    identity = context.auth_context()
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        if values := identity.get(key):
            return _UNFIT.sub("_", values[0].decode("utf-8", "replace"))[:64]
    return "local"


async def _refuse(_: object, context: grpc.aio.ServicerContext) -> None:
    await abort(context, _UNAUTHENTICATED)


# For methods of every shape: a handler of this one may answer before it reads.
_REFUSE = grpc.stream_stream_rpc_method_handler(_refuse)
