"""Attempts: the time limit of one call, and the pauses between its tries."""

from __future__ import annotations

from time import monotonic

import grpc

from rapo.client.connection import Connection


class Attempts:
    """The tries of one call. `limit` is in seconds, retries and pauses included, and begins now."""

    def __init__(self, connection: Connection, limit: float, request_id: str = "") -> None:
        self._connection = connection
        self._limit = limit
        self._request_id = request_id
        self._deadline = monotonic() + limit
        self._failures = 0

    def left(self) -> float:
        """Seconds that remain, never less than 0."""
        return max(0.0, self._deadline - monotonic())

    def pause_after(self, error: grpc.RpcError, *, final: bool = False) -> float:
        """Seconds to wait before the next try.

        Raises the `CallError` for `error` if the policy allows no other try in the time that
        remains, or if `final` says that this try may not be repeated.
        """
        self._failures += 1
        failure = self._connection.call_error(error, self._limit, self._request_id)
        pause = None if final else self._connection.policy.pause(failure, self._failures, self.left())
        if pause is None:
            raise failure from error
        return pause
