"""Preparation: the images of a step as the policy's inputs, made ahead of the micro-batches.

- With threads, images are decoded and cut into patches while micro-batches before theirs are
  computed. What they are made into does not depend on when, or on how many threads there are.
- An image is prepared once for a step, and not at all while it is kept from an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from cachetools import LRUCache

from rapo.config import Config
from rapo.families.inputs import Prepared
from rapo.images.decode import decode_image
from rapo.policy.processing import PolicyProcessor
from rapo.util.cache import keep

_CACHE_BYTES = 512 * 2**20


class Preparation:
    """Prepares images by `learner.threads` threads.

    One CPU thread works on demand: a second one would take turns with the first on its core.
    """

    def __init__(self, processor: PolicyProcessor, config: Config) -> None:
        self._processor = processor
        self._config = config
        settings = config.learner
        self._threads = settings.threads if settings.threads > 1 or settings.gpus > 0 else 0
        self._kept: LRUCache[str, Prepared] = LRUCache(_CACHE_BYTES, lambda item: item.nbytes)

    @contextmanager
    def ahead(self, images: Mapping[str, bytes], order: Iterable[str]) -> Iterator[StepImages]:
        """The prepared images of a step. `images` are the encoded ones by uid, which are needed in
        the order of the uids `order`."""
        kept = {uid: self._kept[uid] for uid in images if uid in self._kept}
        new = {uid: images[uid] for uid in dict.fromkeys(order) if uid not in kept}
        if not self._threads:
            yield StepImages(self, kept, new, {})
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="prepare") as pool:
            made = {uid: pool.submit(self.prepare, image) for uid, image in new.items()}
            try:
                yield StepImages(self, kept, new, made)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self, image: bytes) -> Prepared:
        """An encoded image as inputs. Raises `ImageError` where it does not decode."""
        return self._processor.prepare(decode_image(image, self._config.image))

    def keep(self, uid: str, prepared: Prepared) -> None:
        keep(self._kept, uid, prepared)


class StepImages:
    """The images of one step, for the thread that computes."""

    def __init__(
        self,
        source: Preparation,
        ready: dict[str, Prepared],
        encoded: Mapping[str, bytes],
        coming: Mapping[str, Future[Prepared]],
    ) -> None:
        self._source = source
        self._ready = ready
        self._encoded = encoded
        self._coming = coming

    def __getitem__(self, uid: str) -> Prepared:
        """The inputs of an image. Waits for its preparation, and raises the error of that."""
        if uid not in self._ready:
            coming = self._coming.get(uid)
            prepared = self._source.prepare(self._encoded[uid]) if coming is None else coming.result()
            self._ready[uid] = prepared
            self._source.keep(uid, prepared)
        return self._ready[uid]
