"""The error of a call: the service's words, and what google.rpc's details say of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rapo.errors import ServiceError

_DETAILS_KEY = "grpc-status-details-bin"
_REASON_KEY = "rapo-reason"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request at fault, such as `image` or `requests[3].image`, and why."""

    field: str
    description: str


class CallError(ServiceError):
    """A call, or one image of it, that the service refused, or a call that never reached it.

    `code` is the gRPC status name, such as UNAVAILABLE; `reason` the service's one-word reason
    where it gave one; `request_id` finds the call in the service's log. `violations` are the fields
    at fault of an INVALID_ARGUMENT. `retry_delay` is after how many seconds the service wants to be
    asked again, None where it did not say so.
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
    """The `CallError` for what gRPC raised, of both its APIs. `timeout` is in seconds, for the
    words alone."""
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
    known = _read_details(_status_of(trailing).details)
    known.setdefault("reason", next((str(value) for key, value in trailing if key == _REASON_KEY), None))
    return CallError(message, code=code, request_id=request_id, **known)


def from_status(status: status_pb2.Status, request_id: str = "") -> CallError:
    """The `CallError` for one image of many."""
    names = code_pb2.Code.DESCRIPTOR.values_by_number
    code = names[status.code].name if status.code in names else "UNKNOWN"
    message = f"{status.message or 'no details'} ({code})"
    return CallError(message, code=code, request_id=request_id, **_read_details(status.details))


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
    hint = "" if secure else " If it takes TLS, give its CA."
    return (
        f"no scoring service answers at {target} ({details}). Start one with `rapo serve`, or give its address.{hint}"
    )


def _status_of(trailing: tuple[tuple[str, Any], ...]) -> status_pb2.Status:
    data = next((value for key, value in trailing if key == _DETAILS_KEY), b"")
    try:
        return status_pb2.Status.FromString(data)
    except DecodeError:
        return status_pb2.Status()  # the call failed in any case, and its code and words are known without


def _read_details(details: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for packed in details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            found["reason"] = info.reason or None
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            packed.Unpack(bad)
            found["violations"] = tuple(FieldViolation(item.field, item.description) for item in bad.field_violations)
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            found["retry_delay"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return found
