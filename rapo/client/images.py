"""Image inputs: what an image may be, checked before anything is sent, the same in every call.

- Encoded bytes, in any object of bytes, or the path of a regular file.
- Anything else is an `ImageError` of that image alone. Pillow and NumPy are not imported for it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, Iterable
from typing import TypeGuard

from rapo.errors import ConfigError, ImageError
from rapo.util.printable import clipped


def is_bytes(image: object) -> TypeGuard[bytes | bytearray | memoryview]:
    """Whether `image` is encoded bytes already."""
    return isinstance(image, bytes | bytearray | memoryview)


def read_image(image: object, most: int = 0) -> bytes:
    """The encoded bytes.

    Raises `ImageError`: `missing` for None or NaN, `no_image` for an object that is neither bytes
    nor a path, `unreadable` for a path that cannot be read, `too_many_bytes` for more than `most`
    bytes (0: no limit), which are then not read.
    """
    if is_bytes(image):
        _check_size("the image", image.nbytes if isinstance(image, memoryview) else len(image), most)
        return bytes(image)
    if image is None or (isinstance(image, str) and not image) or (isinstance(image, float) and image != image):
        raise ImageError("there is no image (None, NaN or an empty name)", reason="missing")
    if not isinstance(image, str | os.PathLike):
        kind = f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
        raise ImageError(
            f"a {clipped(kind, 80)} is no image: give the bytes of an image file, or a path{_hint(image)}",
            reason="no_image",
        )
    path = os.fspath(image)
    name = clipped(os.fsdecode(path), 300)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"cannot read {name}: it is no regular file", reason="unreadable")
            _check_size(name, status.st_size, most)
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        words = error.strerror if isinstance(error, OSError) else None
        raise ImageError(f"cannot read {name}: {words or error}", reason="unreadable") from error


def check_images(images: object, call: str, *, lazily: bool = False) -> None:
    """Raise `ConfigError` where a call for many images is given one image, or something that holds
    none."""
    kinds = (Iterable, AsyncIterable) if lazily else (Iterable,)
    if isinstance(images, str | os.PathLike) or is_bytes(images) or not isinstance(images, kinds):
        raise ConfigError(
            f"{call} takes several images, such as a list of paths, not a {type(images).__name__}. Use score() for one."
        )


def _check_size(name: str, size: int, most: int) -> None:
    if most and size > most:
        raise ImageError(f"{name} has {size:,} bytes; the service takes {most:,} at most", reason="too_many_bytes")


def _open_at_once(path: str, flags: int) -> int:
    # A pipe without a writer would hold the call for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _hint(image: object) -> str:
    if hasattr(image, "save") and hasattr(image, "convert"):  # a PIL image
        return ' (image.save(buffer, "PNG"); buffer.getvalue())'
    if hasattr(image, "__array_interface__"):
        return ' (Image.fromarray(array).save(buffer, "PNG"); buffer.getvalue())'
    return ""
