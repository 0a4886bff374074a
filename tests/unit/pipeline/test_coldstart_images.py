"""Cold start: what its workers get of the images."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.pipeline.stages.coldstart import SharedRow, examples
from rapo.errors import ImageError


class Trainer:
    def example(self, image: bytes, critique: str, score: float) -> tuple[bytes, str, float]:
        return image, critique, score


def row(image: bytes | None, problem: str | None = None) -> SharedRow:
    return {"score": 0.5, "critique": "soft", "image": image, "problem": problem, "reason": problem and "image"}


def test_a_worker_trains_on_the_bytes_of_its_rows_and_names_an_image_that_was_not_read() -> None:
    trainer: Any = Trainer()
    given = examples([row(b"one"), row(None, "cannot read image file /photos/2.jpg: gone")], trainer)
    assert next(given) == (b"one", "soft", 0.5)
    with pytest.raises(ImageError, match=r"photos/2\.jpg"):
        next(given)
