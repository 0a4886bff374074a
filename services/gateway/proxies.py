"""Proxies: the connections to Ray Serve's proxies, one for each node that has one.

- A call goes to the connected proxy with the fewest calls in flight. Without a connected one it
  goes to any, and fails as gRPC says.
- A call goes to one proxy only: gRPC's own retries are off, and the caller decides about another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from rapo.v1.scorer_pb2_grpc import AestheticScorerStub

_UNLIMITED = -1
_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.max_send_message_length", _UNLIMITED),
    # A Serve that came back is found within a second, not after gRPC's two minutes of growing
    # pauses.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # the cluster is reached directly, whatever proxy the environment names
    # A node that is gone without a word is found, and no call waits for it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # An address may be the name of several proxies (a headless Service). When one of them goes the
    # name is looked up anew, by default not more often than every 30 s.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]


@dataclass
class _Proxy:
    channel: grpc.aio.Channel
    stub: AestheticScorerStub
    in_flight: int = 0


class Proxies:
    """Serve's proxies at `addresses` (host:port), at least one. They belong to one event loop."""

    def __init__(self, addresses: Sequence[str]) -> None:
        channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for address in addresses]
        self._proxies = [_Proxy(channel, AestheticScorerStub(channel)) for channel in channels]
        self._turn = itertools.count()

    def _next(self) -> _Proxy:
        ready = grpc.ChannelConnectivity.READY
        # Also of an idle connection: this wakes it up.
        states = [proxy.channel.get_state(try_to_connect=True) for proxy in self._proxies]
        connected = [proxy for proxy, state in zip(self._proxies, states, strict=True) if state == ready]
        candidates = connected or self._proxies
        first = next(self._turn) % len(candidates)  # so that equals take turns
        return min(candidates[first:] + candidates[:first], key=lambda proxy: proxy.in_flight)

    @contextmanager
    def stub(self) -> Iterator[AestheticScorerStub]:
        """The stub of the proxy that the block's one call goes to."""
        proxy = self._next()
        proxy.in_flight += 1
        try:
            yield proxy.stub
        finally:
            proxy.in_flight -= 1

    def channel(self) -> grpc.aio.Channel:
        """The connection for a call of another service."""
        return self._next().channel

    async def close(self) -> None:
        """Close all connections."""
        for proxy in self._proxies:
            await proxy.channel.close()
