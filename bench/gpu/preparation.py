"""Image preparation on the host: what a rank waits for before its first forward pass, in one thread
and in several."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.gpu.learner import processor_of
from rapo.images.decode import decode_image

_SIDES = ((640, 480), (1920, 1280))
_THREADS = (1, 8)


def preparation_rows(images: int) -> Iterator[dict[str, Any]]:
    """Seconds to decode and prepare `images` JPEG files of each size, by threads."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        processor = processor_of(Path(folder))
        for width, height in _SIDES:
            files = [_jpeg(rng, width, height) for _ in range(images)]
            for threads in _THREADS:
                began = time.perf_counter()
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(lambda data: processor.prepare(decode_image(data)), files))
                seconds = time.perf_counter() - began
                yield {
                    "part": "preparation",
                    "image": f"{width}x{height}",
                    "threads": threads,
                    "images/s": images / seconds,
                }


def _jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()
