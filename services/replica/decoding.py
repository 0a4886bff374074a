"""FairDecoding: decodes the images of many callers side by side, light ones apart from heavy ones.

- Every image is decoded in a process that is killed when its caller goes away or runs out of time.
- Light images never wait for heavy ones: each kind has processes of its own. Heavy ones are decoded
  one at a time, in the time that the engine and other callers leave; after some seconds in which
  they leave too little, at a low priority.
- Callers take turns, and no single one holds all processes for light images.
- A heavy image's process ends with it, so its memory returns at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rapo.config import ImageConfig
from rapo.images.decoder import DecodeJob, Decoder, DecoderHost, DecoderLimits, PatientDecoder
from rapo.images.refusal import check_size
from rapo.images.structure import check_structure
from services.fair_places import FairPlaces

T = TypeVar("T")

_INSPECTORS = 2
# Looking through more bytes than this in the event loop would keep other calls waiting.
_SMALL = 2**18

#: Up to this much work (`rapo.images.structure.check_structure`) an image is light: a baseline JPEG
#: of 14 megapixels, or a PNG, WebP or TIFF of 3.5.
LIGHT_WORK = 14_000_000

_LIGHT_DECODERS, _HEAVY_DECODERS = 3, 1
# WebP takes most: its decoder holds the canvas twice, and the image and a copy lie beside it.
_BYTES_PER_PIXEL = 20
_SPARE_BYTES = 128 * 2**20
# Several times what an accepted image takes on a slow processor.
_LIGHT_CPU_S, _HEAVY_CPU_S = 3, 15
_LIGHT_IMAGES = 5_000  # then a new process takes over, in case that a library leaks
_HEAVY_NICE = 10
# For heavy images that take their time from nobody. More than a usual one takes on an idle core.
_PATIENCE_S = 3.0


class Decoding(Protocol):
    """How an `ImageScorer` gets its images decoded."""

    async def decode(self, data: bytes, caller: str, then: Callable[[NDArray[np.uint8]], T], *, heavy: bool) -> T:
        """What `then` makes of the pixels `(height, width, 3)`, in another thread. Raises what
        `Decoder.decode` does."""
        ...

    def close(self) -> None: ...


class FairDecoding:
    """Decoders for one replica; they belong to one event loop. Starting them takes a second.

    `wait_s` is the longest time for one image, whatever its caller's deadline.
    """

    def __init__(self, limits: ImageConfig, wait_s: float) -> None:
        self._host = DecoderHost(limits)
        light = DecoderLimits(_LIGHT_CPU_S, memory_of(LIGHT_WORK), wait_s, _LIGHT_IMAGES)
        heavy = DecoderLimits(_HEAVY_CPU_S, memory_of(limits.max_pixels), wait_s, 1, _HEAVY_NICE)
        self._light = _Lane([Decoder(self._host, light) for _ in range(_LIGHT_DECODERS)], light.nice)
        patient = [PatientDecoder(self._host, heavy, _PATIENCE_S) for _ in range(_HEAVY_DECODERS)]
        self._heavy = _Lane(patient, heavy.nice)

    async def decode(self, data: bytes, caller: str, then: Callable[[NDArray[np.uint8]], T], *, heavy: bool) -> T:
        """See `Decoding`."""
        return await (self._heavy if heavy else self._light).run(data, caller, then)

    def close(self) -> None:
        """End all decoders."""
        self._light.close()
        self._heavy.close()
        self._host.close()


def memory_of(pixels: int) -> int:
    """Bytes that a decoder may take for an image of so many pixels, beyond those that it starts
    with."""
    return _SPARE_BYTES + _BYTES_PER_PIXEL * pixels


class ImageInspector:
    """Looks at encoded images without decoding them."""

    def __init__(self, limits: ImageConfig) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(_INSPECTORS, thread_name_prefix="inspect")

    async def inspect(self, data: bytes) -> tuple[str, bool]:
        """The image's SHA-256, and whether it is heavy. Raises `ImageError` for one that is refused
        without decoding it."""
        if len(data) < _SMALL:
            return self._inspect(data)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._inspect, data)

    def _inspect(self, data: bytes) -> tuple[str, bool]:
        check_size(len(data), self._limits)
        heavy = check_structure(data, self._limits) > LIGHT_WORK
        return hashlib.sha256(data).hexdigest(), heavy

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Lane:
    """Decoders of one kind, each with a thread that waits for it."""

    def __init__(self, decoders: Sequence[Decoder | PatientDecoder], nice: int) -> None:
        self._places = FairPlaces(len(decoders), keep_one=True)
        self._free = list(decoders)
        self._all = tuple(decoders)
        # On Linux niceness is the thread's own.
        self._threads = ThreadPoolExecutor(
            len(decoders), thread_name_prefix="decode", initializer=os.nice, initargs=(nice,)
        )

    async def run(self, data: bytes, caller: str, then: Callable[[NDArray[np.uint8]], T]) -> T:
        await self._places.take(caller)
        loop, decoder, job = asyncio.get_running_loop(), self._free.pop(), DecodeJob(data)

        def give_back(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._give_back, caller, decoder)

        result = self._threads.submit(lambda: then(decoder.decode(job)))
        # Not when the caller leaves: until the thread is done, the decoder is not free.
        result.add_done_callback(give_back)
        try:
            return await asyncio.wrap_future(result)
        except asyncio.CancelledError:
            decoder.stop(job)
            raise

    def _give_back(self, caller: str, decoder: Decoder | PatientDecoder) -> None:
        self._free.append(decoder)
        self._places.give_back(caller)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._all:
            decoder.close()
