"""File digests: cheap digests of content, from the size and a few places of a file.

Two files that differ have the same digest only where they have one size and differ nowhere in the
places that are read: a photograph or a shard of weights that was exchanged is seen, a single byte
that was altered need not be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

_BLOCK = 1 << 14


def file_digest(path: str | Path, blocks: int = 3) -> int | None:
    """A hash of the size and of `blocks` evenly spread pieces of 16 KiB (xxh3-64), of a small file
    of all; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = xxhash.xxh3_64(size.to_bytes(8, "big"))
            if size <= blocks * _BLOCK:
                digest.update(file.read())
                return digest.intdigest()
            for block in range(blocks):
                file.seek(block * (size - _BLOCK) // (blocks - 1))
                digest.update(file.read(_BLOCK))
            return digest.intdigest()
    except OSError:
        return None


def digest_of(files: Iterable[tuple[str, Path]], blocks: int) -> str:
    """One digest of files with their names."""
    digest = xxhash.xxh3_64()
    for name, path in files:
        digest.update(f"{name}\0{file_digest(path, blocks)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def model_digest(folder: Path) -> str:
    """A digest of a model folder: weights, configuration, tokenizer and processor."""
    return digest_of(_model_files(folder), blocks=64)


def _model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in (".safetensors", ".bin", ".pt", ".json", ".jinja", ".txt", ".model") and path.is_file():
            yield path.name, path
