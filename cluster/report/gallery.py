"""Gallery: picks the six images that say most about a model and embeds them in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.files.predictions import PredictionRow
from rapo.answers.rationale import rationale_of
from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import decode_image, read_image_file

# The run had limits of its own; an image that it used is shown.
_LIMITS = ImageConfig(max_bytes=2**31, max_pixels=170_000_000, min_side=1, max_frames=10**6)

_THUMBNAIL = (520, 390)  # twice the size on the page, for dense screens
_ENLARGED = 160
_RATIONALE_CHARACTERS = 420


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image with its scores on [0, 1]. `source` is a data URI, or None where the file is not
    readable."""

    title: str
    uid: str
    source: str | None
    target: float
    score: float
    rationale: str


def choose(rows: Sequence[PredictionRow], before: Mapping[str, float | None], folder: Path) -> list[GalleryImage]:
    """Up to six different images among the `rows` with a score.

    `before` holds the cold start's scores by uid; relative paths are looked up in `folder`. Equal
    candidates are decided by uid, so that a report made twice shows the same images.
    """
    left = [
        _Candidate(row, row.target, row.score, before.get(row.uid))
        for row in sorted(rows, key=lambda row: row.uid)
        if row.target is not None and row.score is not None
    ]
    wanted: list[tuple[str, Callable[[_Candidate], float]]] = [
        ("Highest prediction", lambda image: image.score),
        ("Lowest prediction", lambda image: -image.score),
        ("Largest overestimate", lambda image: image.error),
        ("Largest underestimate", lambda image: -image.error),
    ]
    if before:
        wanted.append(("Largest gain over the cold start", lambda image: image.gain))
    wanted.append(("Closest to the raters' score", lambda image: -abs(image.error)))
    images: list[GalleryImage] = []
    for title, key in wanted:
        if left:
            image = max(left, key=key)
            left.remove(image)
            images.append(_image(title, image, folder))
    return images


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A prediction with a score; `before` is the cold start's score of the image."""

    row: PredictionRow
    target: float
    score: float
    before: float | None

    @property
    def error(self) -> float:
        return self.score - self.target

    @property
    def gain(self) -> float:
        return 0.0 if self.before is None else abs(self.before - self.target) - abs(self.error)


def _image(title: str, image: _Candidate, folder: Path) -> GalleryImage:
    row = image.row
    source = thumbnail(folder / row.path) if row.path else None
    return GalleryImage(title, row.uid, source, image.target, image.score, rationale(row.text))


def thumbnail(path: Path) -> str | None:
    """The image as a small data URI, upright; None where it cannot be decoded."""
    try:
        small = decode_image(read_image_file(path, _LIMITS), _LIMITS)
    except ImageError:
        return None
    small.thumbnail(_THUMBNAIL)
    buffer = io.BytesIO()
    # JPEG's blocks would show where a small image is enlarged by the page.
    kind, settings = ("PNG", {}) if max(small.size) <= _ENLARGED else ("JPEG", {"quality": 86})
    small.save(buffer, kind, **settings)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def rationale(text: str) -> str:
    """The reasoning of a completion, without tags, cut at a word where it is long."""
    plain = " ".join(rationale_of(text).split())
    if len(plain) <= _RATIONALE_CHARACTERS:
        return plain
    return plain[:_RATIONALE_CHARACTERS].rsplit(" ", 1)[0].rstrip(",;:") + " …"
