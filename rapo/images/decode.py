"""Decoding: turns untrusted image files into RGB images.

- The header is checked before a pixel is decoded.
- Training data, rollouts and the service all decode by `decode_image`, so that the same bytes give
  the same pixels everywhere.
- No setting of Pillow is changed after the import, because many threads decode at the same time.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from PIL import AvifImagePlugin, Image
from pillow_heif import register_heif_opener

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images import profiles, wide_gamut
from rapo.images.refusal import check_frames, check_pixels, check_size
from rapo.images.stated_colours import stated_colours
from rapo.images.structure import check_structure
from rapo.records import ImageRecord

#: The accepted formats, by Pillow's names. A JPEG that holds several images (MPO) counts as JPEG.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "HEIF", "AVIF", "JPEG2000")

#: Stable words for counting, see `ImageError.reason`.
REASONS: tuple[str, ...] = ("missing", "empty", "too_many_bytes", "unknown_format", "too_many_pixels", "too_small",
                            "too_elongated", "too_many_frames", "too_complex", "truncated")  # fmt: skip

#: Image processors refuse an image whose sides differ by more than this factor.
MAX_ASPECT = 200

_STRIP_ROWS = 256

# Counting frames reads the whole file here; `check_structure` has done that.
_COUNTED = ("TIFF", "GIF")

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# One thread an image: many are decoded at the same time. What lies beside the image is not read.
register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Pillow's warnings are errors here or do no harm. They quote the file, and would flood a service's
# log.
warnings.filterwarnings("ignore", module=r"PIL\.")

# The errors of Pillow's plugins on damaged input; they have no common base.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
                  RuntimeError, AssertionError, struct.error, zlib.error)  # fmt: skip


def decode_image(data: bytes, limits: ImageConfig = ImageConfig()) -> Image.Image:
    """Decode encoded bytes into an RGB image in memory, upright (EXIF), alpha composited on white.

    Only the first frame of an animation, a multi-page file or a sequence is decoded. An embedded
    colour profile is applied (`rapo.images.profiles`), or else the wide gamut that the file states
    (`rapo.images.wide_gamut`). Bytes behind the image are ignored; with bytes before it the file
    has an unknown format. Raises `ImageError` with one of `REASONS`.
    """
    check_size(len(data), limits)
    check_structure(data, limits)
    with _open(io.BytesIO(data), limits) as image:
        return _decode(image, data, limits)


def read_image_bytes(record: ImageRecord, limits: ImageConfig = ImageConfig()) -> bytes:
    """The encoded bytes of a record, from memory or from its file.

    The size is checked before the file is read. Raises `ImageError` with the reason missing, empty
    or too_many_bytes.
    """
    if record.data is not None:
        check_size(len(record.data), limits)
        return record.data
    if record.path is None:
        raise ImageError(f"image {record.uid!r} has neither a path nor data", reason="missing")
    return read_image_file(record.path, limits)


def read_image_file(path: Path, limits: ImageConfig = ImageConfig()) -> bytes:
    """The bytes of an image file. Raises `ImageError` with the reason missing, empty or
    too_many_bytes."""
    _check_file(path, limits)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read image file {path}: {error.strerror or error}", reason="missing") from error


def check_image_file(path: Path, limits: ImageConfig = ImageConfig(), *, decode: bool = True) -> tuple[int, int]:
    """The width and height of an image file. Raises `ImageError` if it is not usable. With
    `decode=False` only the header is read, and the sides are those before the image is turned
    upright."""
    if decode:
        return decode_image(read_image_file(path, limits), limits).size
    _check_file(path, limits)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ImageError(f"cannot read image file {path}: {error.strerror or error}", reason="missing") from error
    with stream, _open(stream, limits) as image:
        return image.size


def check_image_bytes(data: bytes, limits: ImageConfig = ImageConfig(), *, decode: bool = True) -> tuple[int, int]:
    """Like `check_image_file`, of encoded bytes."""
    if decode:
        return decode_image(data, limits).size
    check_size(len(data), limits)
    with _open(io.BytesIO(data), limits) as image:
        return image.size


def _check_file(path: Path, limits: ImageConfig) -> None:
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ImageError(f"image file not found: {path}", reason="missing") from error
    if not path.is_file():
        raise ImageError(f"not an image file: {path}", reason="missing")
    check_size(size, limits)


def _open(stream: IO[bytes], limits: ImageConfig) -> Image.Image:
    """Parse the header and check it against the limits; no pixel is decoded."""
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"not an image of a known format ({', '.join(FORMATS)})", reason="unknown_format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit (about 179 million pixels) holds in addition to `limits`.
        raise ImageError(f"the image is too large to decode safely: {error}", reason="too_many_pixels") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"the image header is truncated or damaged{_why(error)}", reason="truncated") from error
    _check_sides(*image.size, limits)
    if image.format not in _COUNTED:
        check_frames(getattr(image, "n_frames", 1), limits)
    return image


def _check_sides(width: int, height: int, limits: ImageConfig) -> None:
    check_pixels(width, height, limits)
    if min(width, height) < limits.min_side:
        raise ImageError(
            f"the image has {width} x {height} pixels; each side needs image.min_side = {limits.min_side}",
            reason="too_small",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"the image has {width} x {height} pixels; its sides may differ by a factor of {MAX_ASPECT}",
            reason="too_elongated",
        )


def _why(error: Exception) -> str:
    """A decoder's message as one short line, without unprintable characters and addresses."""
    words = "".join(c if c.isascii() and c.isprintable() else "?" for c in str(error).split("\n")[0])
    return f": {words[:120]}" if words and " at 0x" not in words else ""


def _decode(image: Image.Image, data: bytes, limits: ImageConfig) -> Image.Image:
    try:
        image.load()
        _check_sides(*image.size, limits)  # HEIF: the parts may make another size than its header says
        rgb = _to_srgb(_to_rgb(image), profiles.embedded_profile(image, data), data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image is too large to decode safely: {error}", reason="too_many_pixels") from error
    except MemoryError as error:
        raise ImageError("the image needs more memory than there is to decode it", reason="too_complex") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"the image is truncated or damaged{_why(error)}", reason="truncated") from error
    turn = _ORIENTATIONS.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _to_srgb(rgb: Image.Image, profile: object, data: bytes) -> Image.Image:
    """An image that has a profile is converted by it, whatever else the file states."""
    if profile:
        return profiles.to_srgb(rgb, profile)
    colours = stated_colours(data)
    return rgb if colours is None else wide_gamut.to_srgb(rgb, colours)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODE_ERRORS:
        return 1  # an image with damaged metadata is usable


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        return _on_white(image)
    # `convert` returns a copy, so the result does not keep the file's bytes.
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """The image composited on white, strip by strip: copies of a large image would take a
    gigabyte."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        strip = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        result.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return result


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Deep greyscale in 8 bit. White is 65535 in 16 bit; wider types have no fixed white, and the
    smallest usual one that fits is taken."""
    if pixels.dtype.itemsize == 2:
        white = 65535.0
    else:
        peak = float(np.max(pixels, initial=0, where=np.isfinite(pixels)))
        usual = (1.0, 255.0, 65535.0) if pixels.dtype.kind == "f" else (255.0, 65535.0)
        white = next((value for value in usual if peak <= value), peak)
    result = np.empty(pixels.shape, np.uint8)
    with np.errstate(invalid="ignore"):  # a signalling NaN warns when it is only copied
        for top in range(0, len(pixels), _STRIP_ROWS):  # float64 takes eight times the space
            finite = np.nan_to_num(pixels[top : top + _STRIP_ROWS].astype(np.float64), posinf=white, neginf=0.0)
            result[top : top + _STRIP_ROWS] = np.clip(np.rint(finite * (255.0 / white)), 0, 255)
    return result
