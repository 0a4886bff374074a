"""Corpus: images that fuzzing found worth keeping, as a folder that grows from run to run.

An image is kept if the decoder said something about its format that it had not said before, or if
it took more CPU time for its bytes than any before.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from random import Random
from time import thread_time

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import decode_image

#: A new image that takes longest must take so many times more.
_DEARER = 1.2
_LARGEST = 2**20
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"II*", b"MM\0*")


class Corpus:
    """The images in `folder`, or in memory alone. `cpu_s` is the most that one took, with its
    name."""

    def __init__(self, folder: Path | None, limits: ImageConfig) -> None:
        self._folder = folder
        self._limits = limits
        self._seen: set[tuple[bytes, str]] = set()
        self._dearest: dict[bytes, float] = {}
        self.images: list[bytes] = []
        self.cpu_s: tuple[float, str] = (0.0, "")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("*.bin")):
                self.verdict(path.read_bytes())

    def pick(self, rng: Random) -> bytes | None:
        """One of the images; None if there is none."""
        return rng.choice(self.images) if self.images else None

    def verdict(self, image: bytes) -> str | bool:
        """True where the image can be decoded, else the reason why not. Keeps it if it is worth
        it."""
        began = thread_time()
        found: str | bool = True
        words = ""
        try:
            decode_image(image, self._limits)
        except ImageError as error:
            found, words = error.reason, re.sub(r"[0-9]+", "0", str(error))
        self._keep(image, words, thread_time() - began)
        return found

    def _keep(self, image: bytes, words: str, cpu_s: float) -> None:
        name = f"{hashlib.sha256(image).hexdigest()[:16]}.bin"
        self.cpu_s = max(self.cpu_s, (round(cpu_s, 3), name))
        kind = next((magic for magic in _MAGIC if image.startswith(magic)), b"")
        new = (kind, words) not in self._seen
        dearer = cpu_s > 0.05 and cpu_s > _DEARER * self._dearest.get(kind, 0.0)
        if not new and not dearer:
            return
        self._seen.add((kind, words))
        self._dearest[kind] = max(cpu_s, self._dearest.get(kind, 0.0))
        if len(image) <= _LARGEST:
            self.images.append(image)
            if self._folder is not None and not (path := self._folder / name).exists():
                path.write_bytes(image)
