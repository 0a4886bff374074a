"""Encoded images in the object store: read once, shared by sampler and learner, bounded in size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from cachetools import LRUCache

from rapo.config import Config
from rapo.images.decode import read_image_bytes
from rapo.records import ImageRecord
from rapo.util.cache import get_or_make

#: Beside weights and groups, which must fit as well.
_SHARE_OF_STORE = 4


class ImageStore:
    """A ref to each image's encoded bytes (`uint8` array). One that is dropped lives on as long as
    a call needs it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        limit = config.ray.object_store_mib * 2**20 // _SHARE_OF_STORE
        self._refs: LRUCache[str, tuple[Any, int]] = LRUCache(limit, lambda item: item[1])

    def ref(self, record: ImageRecord) -> Any:
        """Raises `ImageError` where the record's file can't be read."""
        return get_or_make(self._refs, record.uid, lambda: self._put(record))[0]

    def refs(self, records: Sequence[ImageRecord]) -> list[Any]:
        return [self.ref(record) for record in records]

    def _put(self, record: ImageRecord) -> tuple[Any, int]:
        data = np.frombuffer(read_image_bytes(record, self._config.image), np.uint8)
        return ray.put(data), len(data)
