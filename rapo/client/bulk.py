"""BulkJob: which images a bulk job reads, and when. InOrder: its outcomes in the order of the
images.

- An image is read only while there is room for it, so that the input may be endless.
- An image that cannot be sent becomes an outcome with its error and stops no other image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rapo.client.connection import RetryPolicy
from rapo.client.images import check_images
from rapo.client.messages import outcome, score_request
from rapo.client.stream import BulkStream
from rapo.client.types import Image, ModelInfo, Outcome, ScoreOptions
from rapo.errors import ImageError

# Images in flight if neither the caller nor the service sets a number.
_IN_FLIGHT = 32

#: An image of the input with its encoded bytes, or with the reason why it cannot be sent.
LoadedImage = tuple[Image, bytes | ImageError]

#: Whether a job with this window (images in flight, at most) may read another image.
HasRoom = Callable[[int], bool]


def check_bulk_arguments(images: object, in_flight: int | None, options: ScoreOptions) -> None:
    """Raise `ValueError` or `ConfigError` for arguments that cannot work, before anything is
    sent."""
    check_images(images, "a call for many images", lazily=True)
    if in_flight is not None and in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, not {in_flight}")
    score_request(b"", "", **options)


class BulkJob(BulkStream):
    """A `BulkStream` together with its input."""

    def __init__(
        self,
        policy: RetryPolicy,
        limit_s: float,
        limits: ModelInfo,
        in_flight: int | None,
        options: ScoreOptions,
        has_room: HasRoom,
    ) -> None:
        super().__init__(policy, limit_s)
        self._options = options
        self._window = in_flight or limits.max_stream_in_flight or _IN_FLIGHT
        self._has_room = has_room
        self._index = 0
        self._more = True

    @property
    def finished(self) -> bool:
        """Whether the input has ended and every image has its outcome."""
        return not self._more and not len(self)

    def wants_image(self) -> bool:
        """Whether to read another image now."""
        return self._more and len(self) < self._window and self._has_room(self._window)

    def add(self, loaded: LoadedImage | None) -> Outcome | None:
        """Take the next image of the input in, or its end (None); the outcome of an image that
        cannot be sent."""
        if loaded is None:
            self._more = False
            return None
        image, data = loaded
        index, self._index = self._index, self._index + 1
        if isinstance(data, ImageError):
            return outcome(index, image, data)
        self.admit(index, image, score_request(data, "", **self._options))
        return None


class InOrder:
    """Holds outcomes back until those before them are there."""

    def __init__(self) -> None:
        self._held: dict[int, Outcome] = {}
        self._next = 0

    def has_room(self, window: int) -> bool:
        """Whether fewer than four times `window` outcomes are held."""
        return len(self._held) < 4 * window

    def add(self, item: Outcome) -> Iterator[Outcome]:
        """Hold `item`, and yield all whose turn it is."""
        self._held[item.index] = item
        while self._next in self._held:
            yield self._held.pop(self._next)
            self._next += 1
