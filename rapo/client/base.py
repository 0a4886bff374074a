"""ClientBase: the settings, channels and time limits that both clients share."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

import grpc

from rapo.client.attempts import Attempts
from rapo.client.connection import DEFAULT_TARGET, Connection, Metadata, Pem, RetryPolicy
from rapo.client.errors import CallError
from rapo.v1.scorer_pb2_grpc import AestheticScorerStub

#: A channel of gRPC's blocking or asynchronous API.
C = TypeVar("C")


class ClientBase(Generic[C]):
    """A client of one scoring service, without its calls."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout: float = 60.0,
        *,
        tls: bool = False,
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        server_name: str | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        attempts: int = 5,
        initial_backoff: float = 0.2,
        max_backoff: float = 5.0,
        channels: int = 1,
    ) -> None:
        policy = RetryPolicy(attempts, initial_backoff, max_backoff)
        self._connection = Connection(target, policy, tls, ca, certificate, key, server_name, token, token_file)
        self.target = target
        self.timeout = timeout
        self._credentials = self._connection.credentials()
        self._size = max(1, channels)
        self._channels: list[C] = []
        self._stubs: list[AestheticScorerStub] = []
        self._turn = count()
        self._prepare()

    def _prepare(self) -> None:
        """Whatever a client does when it is made; nothing by default."""

    def _open(self, insecure: Callable[..., C], secure: Callable[..., C]) -> None:
        """Open the channels with the functions of gRPC's blocking or asynchronous API."""
        for number in range(self._size):
            options = self._connection.options(number)
            if self._credentials is None:
                channel = insecure(self.target, options=options)
            else:
                channel = secure(self.target, self._credentials, options=options)
            self._channels.append(channel)
            self._stubs.append(AestheticScorerStub(channel))

    def _stub(self) -> AestheticScorerStub:
        """The stub of the channel whose turn it is."""
        return self._stubs[next(self._turn) % self._size]

    def _metadata(self) -> Metadata:
        return self._connection.metadata()

    def _limit(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _attempts(self, timeout: float | None, request_id: str) -> Attempts:
        return Attempts(self._connection, self._limit(timeout), request_id)

    def _stream_error(self, error: grpc.RpcError) -> CallError:
        return self._connection.call_error(error, self.timeout)
