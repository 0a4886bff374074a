"""CallError: the error of a call, with the service's words and what google.rpc's details add."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rapo.errors import ServiceError
from rapo.wire import DETAILS_KEY, REASON_KEY


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request at fault, such as `image` or `requests[3].image`."""

    field: str
    description: str


class CallError(ServiceError):
    """The service refused a call or one image of it, or the call did not reach the service.

    `code` is the gRPC status name, such as UNAVAILABLE; `reason` the service's one-word reason, if
    it gave one; `request_id` finds the call in the service's log. `violations` are the fields at
    fault of an INVALID_ARGUMENT. `retry_delay` is the number of seconds after which the service
    allows a retry, None if it named none.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reason: str | None = None,
        request_id: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.request_id = request_id
        self.violations = violations
        self.retry_delay = retry_delay

    def __reduce__(self) -> tuple[object, ...]:
        return _call_error, (str(self), self.code, self.reason, self.request_id, self.violations, self.retry_delay)


def _call_error(
    message: str,
    code: str,
    reason: str | None,
    request_id: str,
    violations: tuple[FieldViolation, ...],
    retry_delay: float | None,
) -> CallError:
    return CallError(
        message, code=code, reason=reason, request_id=request_id, violations=violations, retry_delay=retry_delay
    )


def from_rpc(error: grpc.RpcError, target: str, timeout: float, request_id: str = "", *, secure: bool) -> CallError:
    """The `CallError` for an error of gRPC's blocking or asynchronous API. `timeout` is in seconds
    and is only used in the message."""
    code: str = error.code().name
    details = error.details() or "no details"
    trailing = tuple(error.trailing_metadata() or ())
    if code == "UNAVAILABLE":
        message = _unreachable(details, target, secure=secure)
    elif code == "DEADLINE_EXCEEDED":
        message = f"{target} gave no answer within {timeout:g} s ({details}). Allow more time, or fewer calls at once."
    elif code == "UNAUTHENTICATED":
        message = f"{target} does not let this client in ({details}). Give a token that it knows."
    else:
        message = f"{details} ({code})"
    data = next((value for key, value in trailing if key == DETAILS_KEY), b"")
    try:
        known = _read_details(status_pb2.Status.FromString(data))
    except DecodeError:
        known = _Details()  # code and message are known without them
    reason = known.reason or next((str(value) for key, value in trailing if key == REASON_KEY), None)
    return _with_details(message, code, reason, request_id, known)


def from_status(status: status_pb2.Status, request_id: str = "") -> CallError:
    """The `CallError` for one image of many."""
    names = code_pb2.Code.DESCRIPTOR.values_by_number
    code = names[status.code].name if status.code in names else "UNKNOWN"
    message = f"{status.message or 'no details'} ({code})"
    known = _read_details(status)
    return _with_details(message, code, known.reason, request_id, known)


def ended_early() -> CallError:
    """For a stream that the service closed without an error and without all answers: it is going
    down."""
    return CallError("the service closed the stream before it had answered everything", code="UNAVAILABLE")


def _unreachable(details: str, target: str, *, secure: bool) -> str:
    # gRPC has no codes for what goes wrong in a handshake: only its words tell the cases apart.
    words = details.lower()
    if secure and any(sign in words for sign in ("certificate_verify", "certificate signature", "verification check")):
        return (
            f"the certificate of {target} cannot be trusted ({details}). Give the CA that signed it as `ca`, and call the "
            "server by a name that is in it (or give that as `server_name`)."
        )
    if secure and ("ssl" in words or "tls" in words or "handshake" in words):
        return (
            f"no TLS connection to {target} ({details}). Does it take TLS at all? If it asks for a client certificate, "
            "give `certificate` and `key`."
        )
    if not secure and "failed to connect" in words and ("socket closed" in words or "reset by peer" in words):
        return (
            f"{target} closed the connection, as a server does that takes TLS only ({details}). Give the CA that signed its "
            "certificate as `ca` (--ca FILE), or tls=True (--tls) for a publicly trusted one."
        )
    return f"no scoring service answers at {target} ({details}). Start one with `rapo serve`, or give its address."


@dataclass(slots=True)
class _Details:
    reason: str | None = None
    violations: tuple[FieldViolation, ...] = ()
    retry_delay: float | None = None


def _with_details(message: str, code: str, reason: str | None, request_id: str, known: _Details) -> CallError:
    return CallError(
        message,
        code=code,
        reason=reason,
        request_id=request_id,
        violations=known.violations,
        retry_delay=known.retry_delay,
    )


def _read_details(status: status_pb2.Status) -> _Details:
    found = _Details()
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            found.reason = info.reason or None
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            packed.Unpack(bad)
            found.violations = tuple(FieldViolation(item.field, item.description) for item in bad.field_violations)
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            found.retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return found
