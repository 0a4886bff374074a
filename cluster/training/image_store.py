"""ImageStore: encoded images in the object store, read once and shared by sampler and learner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import ray
from cachetools import LRUCache
from numpy.typing import NDArray

from rapo.config import Config
from rapo.images.decode import read_image_bytes
from rapo.records import ImageRecord
from rapo.util.cache import get_or_make

if TYPE_CHECKING:
    from ray import ObjectRef

#: Beside weights and groups, which must fit as well.
_SHARE_OF_STORE = 4


def own_store_bytes() -> int:
    """The size of the object store of this process's node, where what it puts has to fit."""
    own = ray.get_runtime_context().get_node_id()
    return int(next(node["Resources"]["object_store_memory"] for node in ray.nodes() if node["NodeID"] == own))


class ImageStore:
    """A ref to each image's encoded bytes (`uint8` array), bounded in size. An image that is
    dropped lives on as long as a call needs it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        limit = own_store_bytes() // _SHARE_OF_STORE
        self._refs: LRUCache[str, tuple[ObjectRef[NDArray[np.uint8]], int]] = LRUCache(limit, lambda item: item[1])

    def ref(self, record: ImageRecord) -> ObjectRef[NDArray[np.uint8]]:
        """Raises `ImageError` where the record's file can't be read."""
        return get_or_make(self._refs, record.uid, lambda: self._put(record))[0]

    def _put(self, record: ImageRecord) -> tuple[ObjectRef[NDArray[np.uint8]], int]:
        data = np.frombuffer(read_image_bytes(record, self._config.image), np.uint8)
        return ray.put(data), len(data)
