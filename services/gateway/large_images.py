"""LargeImages: what images of megabytes wait for in the gateway before they are passed on.

Serve's proxy and the replica take tens of milliseconds of CPU time to receive one, whether it is
scored or refused.

- Their structure is checked here, in another thread. What the replica would refuse is refused in
  the same words, and costs no other process anything.
- One is passed on after the other, at a pace that the receivers can keep up with on one core, for
  each of Serve's proxies. Callers take turns.
- While other callers ask, too, the pace is one at which large images take a small part of the
  processors' time, and one waits before it is passed on: two that come together would otherwise be
  received, and one of them passed on, in the same moment.
- Other images never wait.
"""

from __future__ import annotations

import asyncio
import math
import os
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
# CPU seconds that a byte costs gateway, proxy and replica together: .15 for 16 MiB.
_COST_S = 0.15 / 2**24
# The part of this machine's processors that large images may take so while others ask.
_SHARE = 1 / 7
# For so long after a call its caller counts as one who asks.
_ASKS_S = 1.0


class LargeImages:
    """Belongs to one event loop. `limits` should be the replicas'."""

    def __init__(self, limits: ImageConfig, proxies: int) -> None:
        self._limits = limits
        self._places = FairPlaces(proxies)
        # Not at a lower priority: a check that waits for a processor may hold Python's lock, and
        # the calls would wait for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="structure")
        cores = len(os.sched_getaffinity(0))
        self._pace_beside_others = min(_PACE, _SHARE * cores / _COST_S)
        # The caller who asked last, and the last one before who is another: name, and when.
        self._last, self._before = ("", -math.inf), ("", -math.inf)

    async def wait(self, image: bytes, caller: str, deadline: float) -> None:
        """Return when the image may be passed on. Raises `Refused`, also when `deadline` (monotonic
        clock) comes first."""
        self._note(caller)
        if len(image) <= LARGE:
            return
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await self._places.take(caller)
                pause = 0.0
                try:
                    pause = await self._turn(image, caller)
                finally:
                    asyncio.get_running_loop().call_later(pause, self._places.give_back, caller)
        except TimeoutError as error:
            raise Refused(TIME_OVER) from error
        except ImageError as error:
            raise invalid("image", str(error), error.reason) from error

    async def _turn(self, image: bytes, caller: str) -> float:
        """Check the image, and wait until it may be passed on. Returns the seconds until the next
        one may. Raises `ImageError`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._check, image)
        if not self._others_ask(caller):
            return len(image) / _PACE
        pause = len(image) / self._pace_beside_others / 2  # the other half comes behind it
        await asyncio.sleep(pause)
        return pause

    def _note(self, caller: str) -> None:
        if self._last[0] != caller:
            self._before = self._last
        self._last = (caller, monotonic())

    def _others_ask(self, caller: str) -> bool:
        name, asked = self._before if self._last[0] == caller else self._last
        return name != caller and monotonic() - asked < _ASKS_S

    def _check(self, image: bytes) -> None:
        check_size(len(image), self._limits)
        check_structure(image, self._limits)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
