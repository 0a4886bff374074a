"""LargeImages: what images of megabytes wait for in the gateway before they are passed on.

Serve's proxy and the replica take tens of milliseconds of CPU time to receive one, whether it is
scored or refused.

- Their structure is checked here, in another thread. What the replica would refuse is refused in
  the same words, and costs no other process anything.
- One is passed on after the other, at a pace that the receivers can keep up with on one core, for
  each of Serve's proxies. Callers take turns.
- Other images never wait.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.refusal import check_size
from rapo.images.structure import check_structure
from services.fair_places import FairPlaces
from services.statuses import TIME_OVER, Refused, invalid

#: Images of more bytes are large. Passing on a smaller one takes a few milliseconds.
LARGE = 2**20

# Bytes a second. Not one until the other is answered: a heavy image is decoded for seconds, and all
# large ones of other callers would wait for it.
_PACE = 128 * 2**20


class LargeImages:
    """Belongs to one event loop. `limits` should be the replicas'."""

    def __init__(self, limits: ImageConfig, proxies: int) -> None:
        self._limits = limits
        self._places = FairPlaces(proxies)
        # Not at a lower priority: a check that waits for a processor may hold Python's lock, and
        # the calls would wait for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="structure")

    async def wait(self, image: bytes, caller: str, deadline: float) -> None:
        """Return when the image may be passed on. Raises `Refused`, also when `deadline` (monotonic
        clock) comes first."""
        if len(image) <= LARGE:
            return
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await self._places.take(caller)
        except TimeoutError as error:
            raise Refused(TIME_OVER) from error
        loop = asyncio.get_running_loop()
        pause = 0.0
        try:
            await loop.run_in_executor(self._thread, self._check, image)
            pause = len(image) / _PACE
        except ImageError as error:
            raise invalid("image", str(error), error.reason) from error
        finally:
            loop.call_later(pause, self._places.give_back, caller)

    def _check(self, image: bytes) -> None:
        check_size(len(image), self._limits)
        check_structure(image, self._limits)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
