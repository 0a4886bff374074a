"""Decoding: accepted and refused files, and upright RGB images as results."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import FORMATS, REASONS, check_image_file, decode_image, read_image_bytes
from rapo.records import ImageRecord

SMALL = ImageConfig(min_side=1)


def encode(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def photo(size=(60, 40), mode="RGB"):
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x * 255 // size[0], y * 255 // size[1], (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def reason_of(data, limits=ImageConfig()):
    with pytest.raises(ImageError) as caught:
        decode_image(data, limits)
    assert caught.value.reason in REASONS
    return caught.value.reason


def png_header(width, height):
    """A PNG whose header claims a size, with hardly any pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# pytest puts its own warning filters in place of the module's.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")


#: How an image is written with the least loss.
FINE: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "HEIF": {"quality": 90}, "AVIF": {"quality": 90}}


@pytest.mark.parametrize("format", FORMATS)
def test_formats(format):
    options = FINE.get(format, {})
    image = decode_image(encode(photo(), format, **options))
    assert (image.mode, image.size) == ("RGB", (60, 40))
    difference = np.abs(np.asarray(image, int) - np.asarray(photo(), int)).mean()
    assert difference < (4 if format in ("JPEG", "GIF", "HEIF", "AVIF") else 1e-9)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
def test_modes_become_rgb(mode):
    image = decode_image(encode(photo(mode=mode)))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(photo(mode=mode).convert("RGB")))


def test_cmyk_jpeg():
    image = decode_image(encode(photo(mode="CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, int) - np.asarray(photo(), int)).mean() < 4


def test_sixteen_bit_greyscale_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    for format in ("PNG", "TIFF"):
        image = decode_image(encode(Image.fromarray(ramp), format))
        np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rint(ramp / 257.0))


@pytest.mark.parametrize(("dtype", "white"), [(np.float32, 1.0), (np.int32, 255), (np.int32, 65535)])
def test_wide_greyscale(dtype, white):
    ramp = np.linspace(0, white, 32 * 32).reshape(32, 32).astype(dtype)
    image = decode_image(encode(Image.fromarray(ramp), "TIFF"))
    np.testing.assert_allclose(np.asarray(image)[..., 1], ramp * (255.0 / white), atol=0.51)


def test_transparency_is_composited_on_white():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    palette = Image.new("P", (20, 20), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert decode_image(encode(clear)).getpixel((5, 5)) == (255, 255, 255)
    assert decode_image(encode(half)).getpixel((5, 5)) == (127, 127, 127)
    assert decode_image(encode(palette, transparency=3)).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = decode_image(data)
    assert image.size == ((60, 40) if orientation < 5 else (40, 60))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_damaged_exif_does_not_spoil_the_image():
    data = encode(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\1" * 40)
    assert decode_image(data).size == (60, 40)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (30, 30), color) for color in ("red", "lime")]
    for format in ("WEBP", "PNG", "TIFF"):
        options = FINE.get(format, {})
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert decode_image(data).getpixel((9, 9)) == (255, 0, 0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated(format, keep):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, format)
    assert reason_of(data[: int(len(data) * keep)]) in {"truncated", "unknown_format"}
    if format in {"JPEG", "PNG", "BMP"}:
        assert reason_of(data[: int(len(data) * keep)]) == "truncated"


def test_refused():
    assert reason_of(b"") == "empty"
    assert reason_of(b"hello, I am no image" * 20) == "unknown_format"
    assert reason_of(encode(photo(), "PPM")) == "unknown_format"
    assert reason_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unknown_format"
    assert reason_of(encode(photo((60, 15)))) == "too_small"
    assert reason_of(encode(photo((4000, 17)))) == "too_elongated"
    assert reason_of(b"\xff\xd8\xff" + b"\0" * 50) in {"unknown_format", "truncated"}


def test_limits_hold_before_decoding():
    data = encode(photo())
    assert reason_of(data, ImageConfig(max_bytes=len(data) - 1)) == "too_many_bytes"
    assert reason_of(data, ImageConfig(max_pixels=60 * 40 - 1)) == "too_many_pixels"
    assert decode_image(data, ImageConfig(max_bytes=len(data), max_pixels=60 * 40, min_side=40)).size == (60, 40)
    for side in (8_000, 12_000, 60_000):
        assert reason_of(png_header(side, side)) == "too_many_pixels"
    assert reason_of(png_header(100, 100)) == "truncated"


def test_errors_survive_pickling():
    with pytest.raises(ImageError) as caught:
        decode_image(b"")
    assert pickle.loads(pickle.dumps(caught.value)).reason == "empty"


def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(0)
    for format in FORMATS:
        clean = encode(photo((40, 40)), format)
        for _ in range(60):
            data = bytearray(clean)
            for place in rng.integers(0, len(data), 6):
                data[place] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                assert decode_image(bytes(data), SMALL).mode == "RGB"


def test_threads_agree():
    data = [encode(photo((50 + index % 7, 40)), "JPEG") for index in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = [np.asarray(image) for image in pool.map(decode_image, data)]
    for one, item in zip(together, data, strict=True):
        np.testing.assert_array_equal(one, np.asarray(decode_image(item)))


def record(**where):
    return ImageRecord("d/x", "d", "train", 0.5, 0.5, (0.0, 1.0), **where)


def test_read_image_bytes(tmp_path):
    data = encode(photo())
    path = tmp_path / "x.png"
    path.write_bytes(data)
    assert read_image_bytes(record(path=path)) == read_image_bytes(record(data=data)) == data
    for where, limits, reason in (
        ({"path": tmp_path / "none.png"}, ImageConfig(), "missing"),
        ({"path": tmp_path}, ImageConfig(), "missing"),
        ({}, ImageConfig(), "missing"),
        ({"path": path}, ImageConfig(max_bytes=10), "too_many_bytes"),
        ({"data": data}, ImageConfig(max_bytes=10), "too_many_bytes"),
        ({"data": b""}, ImageConfig(), "empty"),
    ):
        with pytest.raises(ImageError) as caught:
            read_image_bytes(record(**where), limits)
        assert caught.value.reason == reason


def test_header_check_does_not_decode(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encode(photo((200, 200)), "JPEG")[:-300])
    check_image_file(path, decode=False)
    with pytest.raises(ImageError):
        check_image_file(path)
