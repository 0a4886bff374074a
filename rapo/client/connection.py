"""Connection and RetryPolicy: address, TLS and token of a service, and when a call is retried.

- Scoring changes nothing on the server, so any call may be retried.
- gRPC's own retry policy retries UNAVAILABLE, up to `attempts` times with growing pauses.
- gRPC does not read google.rpc.RetryInfo. If the service names a delay with it (its queue is full,
  the client sent more than its share, it restarts), the client itself waits that long and retries,
  as often as the call's time limit allows.
- A proxy of the environment is not asked for this machine's own addresses.
- A token is never sent in clear text to another machine.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import grpc

from rapo.client.errors import CallError, from_rpc
from rapo.errors import ConfigError
from rapo.wire import SERVICE

DEFAULT_TARGET = "127.0.0.1:50051"

#: A file: its path, or its content.
Pem = bytes | str | os.PathLike[str]

#: The metadata of a call.
Metadata = tuple[tuple[str, str], ...]

# gRPC keeps a message for a retry only up to this size; its own default of 256 KiB would turn
# retries off for nearly every photograph, without a word.
_RETRY_BUFFER_BYTES = 256 * 2**20
_RETRIED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` counts the first try (1: no retries). Pauses double from `initial_backoff` to
    `max_backoff` seconds."""

    attempts: int = 5
    initial_backoff: float = 0.2
    max_backoff: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 5:
            raise ValueError(f"attempts must be 1 to 5, which is gRPC's own limit, not {self.attempts}")

    def backoff(self, tries: int) -> float:
        """Seconds to wait after `tries` failures in a row, with jitter so that clients do not retry
        in step."""
        return min(self.max_backoff, self.initial_backoff * 2 ** min(tries - 1, 30)) * random.uniform(0.8, 1.2)

    def pause(self, error: CallError, tries: int, left: float) -> float | None:
        """Seconds to wait before the next try, None to give up. `left` is what remains of the time
        limit.

        It is never shorter than the delay that the service named.
        """
        if self.attempts == 1 or error.retry_delay is None or error.code not in _RETRIED:
            return None
        pause = max(error.retry_delay * random.uniform(1.0, 1.2), self.backoff(tries))
        return pause if pause < left else None


@dataclass(frozen=True, slots=True)
class Connection:
    """Address and credentials. Raises `ConfigError` at once if they cannot work.

    TLS is used if `tls` is set or `ca` or `certificate` is given; without `ca` gRPC's own roots are
    trusted. `certificate` and `key` are the client's own (mTLS). `token_file` is read at each
    call, so that a token can be changed without a restart.
    """

    target: str
    policy: RetryPolicy
    tls: bool = False
    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str | None = None
    token: str | None = None
    token_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if "://" not in self.target and not self.target.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
            host, _, port = self.target.rpartition(":")
            if not host or not port.isdigit():
                raise ConfigError(f"{self.target!r} is not the address of a service: give HOST:PORT.")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a client certificate needs its key and the key its certificate: give both or neither.")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("give either token or token_file, not both.")
        if (self.token or self.token_file) and not self.secure and not _is_local(self.target):
            raise ConfigError(
                f"a token would go to {self.target} readable for everyone on the way: give `ca`, the file of the CA that "
                "signed its certificate, or tls=True if that is a public one."
            )
        self.metadata()

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls or self.ca is not None or self.certificate is not None

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What opens a TLS channel; None for a plain one."""
        if not self.secure:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca, "ca"),
            private_key=_pem(self.key, "key"),
            certificate_chain=_pem(self.certificate, "certificate"),
        )

    def metadata(self) -> Metadata:
        """The metadata of each call."""
        token = self.token
        if self.token_file is not None:
            try:
                token = Path(self.token_file).read_text(encoding="utf-8-sig").strip()
            except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a null byte in the name
                raise ConfigError(f"cannot read the token file {self.token_file}: {error}") from error
        if token is None:
            return ()
        if not token.isascii() or not token.isprintable() or " " in token or not token:
            source = self.token_file if self.token_file is not None else "the token"
            raise ConfigError(f"{source} is no token: it must be one word of printable ASCII characters.")
        return (("authorization", f"Bearer {token}"),)

    def call_error(self, error: grpc.RpcError, limit: float, request_id: str = "") -> CallError:
        """The `CallError` for an error of gRPC in a call of `limit` seconds."""
        return from_rpc(error, self.target, limit, request_id, secure=self.secure)

    def options(self, number: int) -> list[tuple[str, str | int]]:
        """Options of the `number`th channel of a client."""
        method: dict[str, object] = {"name": [{"service": SERVICE}]}
        if self.policy.attempts > 1:
            method["retryPolicy"] = {
                "maxAttempts": self.policy.attempts,
                "initialBackoff": f"{self.policy.initial_backoff:.3f}s",
                "maxBackoff": f"{self.policy.max_backoff:.3f}s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }
        # No retries by gRPC, which would have to keep all that was sent: the client itself sends
        # again what a broken stream left unanswered.
        stream = {"name": [{"service": SERVICE, "method": "ScoreStream"}]}
        options: list[tuple[str, str | int]] = [
            ("grpc.service_config", json.dumps({"methodConfig": [method, stream]})),
            ("grpc.enable_retries", 1),
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
            ("grpc.max_reconnect_backoff_ms", int(self.policy.max_backoff * 1000)),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # else channels of one process share one connection
            ("rapo.channel", number),
        ]
        if _is_local(self.target):
            options.append(("grpc.enable_http_proxy", 0))
        if self.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        return options


def _pem(value: Pem | None, name: str) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        data = value
    else:
        try:
            data = Path(value).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {name} = {os.fspath(value)}: {error.strerror or error}") from error
    if b"-----BEGIN " not in data:
        shown = "the bytes given" if isinstance(value, bytes) else os.fspath(value)
        raise ConfigError(f"{name}: {shown} holds no PEM; it must begin with -----BEGIN.")
    return data


def _is_local(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
