"""The six images of a report: which ones say most about a model, and how each is embedded in the
page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from rapo.answers.parse import parse_answer

PredictionRow = Mapping[str, Any]

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


def choose(rows: Sequence[PredictionRow], before: Mapping[str, float], folder: Path) -> list[GalleryImage]:
    """Up to six different images among `rows` (keys uid, target, score, text, path; both scores
    given).

    `before` holds the cold start's scores by uid; relative paths are looked up in `folder`. Equal
    candidates are decided by uid, so that a report made twice shows the same images.
    """

    def error(row: PredictionRow) -> float:
        return row["score"] - row["target"]

    def gain(row: PredictionRow) -> float:
        return abs(before.get(row["uid"], row["score"]) - row["target"]) - abs(error(row))

    wanted: list[tuple[str, Callable[[PredictionRow], float]]] = [
        ("Highest prediction", lambda row: row["score"]),
        ("Lowest prediction", lambda row: -row["score"]),
        ("Largest overestimate", error),
        ("Largest underestimate", lambda row: -error(row)),
    ]
    if before:
        wanted.append(("Largest gain over the cold start", gain))
    wanted.append(("Closest to the human score", lambda row: -abs(error(row))))
    images: list[GalleryImage] = []
    left = sorted(rows, key=lambda row: str(row["uid"]))
    for title, key in wanted:
        if left:
            row = max(left, key=key)
            left.remove(row)
            images.append(_image(title, row, folder))
    return images


def _image(title: str, row: PredictionRow, folder: Path) -> GalleryImage:
    path = row.get("path")
    source = thumbnail(folder / path) if path else None
    return GalleryImage(title, str(row["uid"]), source, row["target"], row["score"], rationale(row.get("text") or ""))


def thumbnail(path: Path) -> str | None:
    """The image as a small data URI, upright; None where it cannot be decoded."""
    try:
        with Image.open(path) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail(_THUMBNAIL)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # PIL reports damaged files with any of these
    buffer = io.BytesIO()
    # JPEG's blocks would show where a small image is enlarged by the page.
    kind, settings = ("PNG", {}) if max(small.size) <= _ENLARGED else ("JPEG", {"quality": 86})
    small.save(buffer, kind, **settings)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def rationale(text: str) -> str:
    """The reasoning of a completion, without tags, cut at a word where it is long."""
    plain = parse_answer(text).rationale or re.sub(r"<answer>.*|</?think>", "", text, flags=re.DOTALL)
    plain = " ".join(plain.split())
    if len(plain) <= _RATIONALE_CHARACTERS:
        return plain
    return plain[:_RATIONALE_CHARACTERS].rsplit(" ", 1)[0].rstrip(",;:") + " …"
