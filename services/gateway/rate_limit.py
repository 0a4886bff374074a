"""RateLimit: a token bucket of images for each client."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import grpc

from services.statuses import Refusal, Refused

# Beyond this many buckets, those that are full again are dropped: they hold no information.
_MAX_BUCKETS = 4096


class RateLimit:
    """`rate` images per second and client, and `burst` at once. A `rate` of 0 sets no limit. Not
    thread-safe."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str, images: int) -> float:
        """Take `images` from the client's bucket: 0.0 if it held enough, else the seconds until it
        will.

        A batch larger than the bucket passes when the bucket is full, and leaves a debt behind;
        otherwise it never could.
        """
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        held = self._held(client, now)
        missing = min(float(images), self._burst) - held
        if missing > 0:
            return missing / self._rate
        if len(self._buckets) >= _MAX_BUCKETS and client not in self._buckets:
            full = [name for name in self._buckets if self._held(name, now) >= self._burst]
            for name in full:
                del self._buckets[name]
        self._buckets[client] = (held - images, now)
        return 0.0

    def check(self, client: str, images: int) -> None:
        """Take `images`, or raise `Refused` with the seconds to wait."""
        if (wait := self.take(client, images)) > 0:
            words = f"more than {self._rate:g} images per second from this client; try again in {wait:.2f} s"
            raise Refused(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, words, "rate_limit", retry_s=wait))

    def _held(self, client: str, now: float) -> float:
        held, since = self._buckets.get(client, (self._burst, now))
        return min(self._burst, held + (now - since) * self._rate)
