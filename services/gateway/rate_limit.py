"""How much each client may send: a token bucket of images per client."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

# Buckets that are full again know nothing; beyond this many they are thrown away.
_MAX_BUCKETS = 4096


class RateLimit:
    """`rate` images per second and client, and `burst` at once. Not for several threads. `rate` 0:
    no limit."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self.rate = rate
        self.burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str, images: int) -> float:
        """Take `images` from the client's bucket: 0.0 where it held enough, else the seconds until
        it will.

        A batch larger than the bucket passes when the bucket is full, and leaves a debt behind;
        otherwise it never could.
        """
        if self.rate <= 0:
            return 0.0
        now = self._clock()
        held = self._held(client, now)
        missing = min(float(images), self.burst) - held
        if missing > 0:
            return missing / self.rate
        if len(self._buckets) >= _MAX_BUCKETS and client not in self._buckets:
            full = [name for name in self._buckets if self._held(name, now) >= self.burst]
            for name in full:
                del self._buckets[name]
        self._buckets[client] = (held - images, now)
        return 0.0

    def _held(self, client: str, now: float) -> float:
        held, since = self._buckets.get(client, (self.burst, now))
        return min(self.burst, held + (now - since) * self.rate)
