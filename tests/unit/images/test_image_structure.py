"""Structure checks: small files that would take gigabytes or minutes are refused, real ones
pass."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.support import attack_images
from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import FORMATS, decode_image
from rapo.images.structure import (
    MAX_CHUNKS,
    MAX_PACKED_CHUNKS,
    MAX_RUN_LENGTH_BYTES,
    MAX_SCANS,
    MAX_SEGMENTS,
    MAX_TAG_VALUES,
    UNKNOWN_WORK,
    check_structure,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")


def photo(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x * 255 // size[0], y * 255 // size[1], (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def reason_of(data: bytes, limits: ImageConfig = ImageConfig()) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, limits)
    assert str(caught.value).isascii()
    assert " at 0x" not in str(caught.value)
    return caught.value.reason


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, depth: int = 8, color: int = 2, size: tuple[int, int] = (32, 32), rows: bytes = b"") -> bytes:
    """A PNG with `chunks` before its pixels."""
    width, height = size
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    pixels = rows or b"".join(b"\0" + bytes([120] * (width * channels * depth // 8)) for _ in range(height))
    rest = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + rest


def tiff(tags: list[tuple[int, int, int, int]], tail: bytes = b"", next_page: int = 0, big: bool = False) -> bytes:
    """A little-endian TIFF of one directory."""
    word, entry = ("<Q", "<HHQQ") if big else ("<I", "<HHII")
    head = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0" + struct.pack("<I", 8)
    body = struct.pack("<Q" if big else "<H", len(tags)) + b"".join(struct.pack(entry, *tag) for tag in sorted(tags))
    return head + body + struct.pack(word, next_page) + tail


BASIC = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]


class TestBombs:
    def test_png_with_text_that_unpacks_to_gigabytes(self) -> None:
        text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 100_000_000, 9))
        assert reason_of(png(text)) == "truncated"

    def test_png_with_much_text_is_bounded_in_memory(self) -> None:
        text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_000_000, 9))
        tracemalloc.start()
        assert decode_image(png(*[text] * MAX_PACKED_CHUNKS)).size == (32, 32)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200 * 2**20

    def test_png_profile_that_unpacks_to_gigabytes(self) -> None:
        profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 100_000_000, 9))
        assert reason_of(png(profile)) == "truncated"

    def test_png_of_many_chunks(self) -> None:
        assert reason_of(png(*[chunk(b"teSt", b"")] * MAX_CHUNKS)) == "too_complex"
        assert decode_image(png(*[chunk(b"teSt", b"")] * 1000)).size == (32, 32)

    def test_png_of_more_rows_than_its_header_says(self) -> None:
        """The rows behind the last one are not unpacked."""
        bomb = png(rows=b"\0" * 200_000_000)
        assert len(bomb) < 300_000
        assert decode_image(bomb).size == (32, 32)

    def test_jpeg_of_many_scans(self) -> None:
        data = encode(photo((64, 64)), "JPEG", progressive=True)
        last = data.rindex(b"\xff\xda")
        scan = data[last:-2]
        assert decode_image(data[:-2] + scan * 20 + b"\xff\xd9").size == (64, 64)
        assert reason_of(data[:-2] + scan * MAX_SCANS + b"\xff\xd9") == "too_complex"

    def test_jpeg_of_many_segments(self) -> None:
        data = encode(photo(), "JPEG")
        exif = b"\xff\xe1" + struct.pack(">H", 9) + b"Exif\0\0x"
        assert reason_of(data[:2] + exif * MAX_SEGMENTS + data[2:]) == "too_complex"

    def test_scans_are_weighed_with_the_pixels(self) -> None:
        """What 60 scans may be for a small image they may not be for a large one."""
        data = encode(photo((400, 400), "L"), "JPEG", progressive=True)
        last = data.rindex(b"\xff\xda")
        many = data[:-2] + data[last:-2] * 60 + b"\xff\xd9"
        assert decode_image(many, ImageConfig(max_pixels=1_000_000)).size == (400, 400)
        assert reason_of(many, ImageConfig(max_pixels=200_000)) == "too_complex"

    def test_every_ordinary_jpeg_passes_at_the_largest_size(self) -> None:
        for mode in ("L", "RGB", "CMYK"):
            data = encode(photo((400, 400), mode), "JPEG", progressive=True)
            assert decode_image(data, ImageConfig(max_pixels=160_000)).size == (400, 400)

    def test_tiff_with_a_jpeg_of_many_scans(self) -> None:
        assert reason_of(attack_images.REFUSED["tiff_2000_scans"]()) == "too_complex"
        data = encode(photo((400, 400)), "TIFF", compression="jpeg", strip_size=400 * 3 * 8)
        assert data.count(b"\xff\xda") == 50
        assert decode_image(data, ImageConfig(max_pixels=160_000)).size == (400, 400)

    @pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
    def test_png_of_many_packed_chunks(self, kind: bytes) -> None:
        body = b"k\0\0" + (b"\0\0" if kind == b"iTXt" else b"") + zlib.compress(bytes(1000))
        assert decode_image(png(*[chunk(kind, body)] * MAX_PACKED_CHUNKS)).size == (32, 32)
        assert reason_of(png(*[chunk(kind, body)] * (MAX_PACKED_CHUNKS + 1))) == "too_complex"

    def test_bmp_of_much_run_length_code(self) -> None:
        data = attack_images.REFUSED["bmp_runs"]()
        assert reason_of(data) == "too_complex"
        plain = encode(photo((1200, 1200)), "BMP")
        assert len(plain) > MAX_RUN_LENGTH_BYTES
        assert decode_image(plain).size == (1200, 1200)

    @pytest.mark.parametrize("name", attack_images.REFUSED)
    def test_attack_images_are_refused_at_once(self, name: str) -> None:
        data = attack_images.REFUSED[name]()
        began = time.process_time()
        assert reason_of(data) == "too_complex"
        assert time.process_time() - began < 0.2

    def test_scans_in_a_thumbnail_are_not_counted(self) -> None:
        data = encode(photo(), "JPEG")
        hidden = b"\xff\xda" * 5000
        segment = b"\xff\xe5" + struct.pack(">H", 2 + len(hidden)) + hidden
        assert decode_image(data[:2] + segment + data[2:]).size == (60, 40)

    @pytest.mark.parametrize("kind", ["VP8X", "VP8L", "VP8 "])
    def test_webp_with_a_canvas_of_gigabytes(self, kind: str) -> None:
        body = {
            "VP8X": bytes([2, 0, 0, 0]) + (16382).to_bytes(3, "little") * 2,
            "VP8L": b"\x2f" + (16382 | 16382 << 14).to_bytes(4, "little"),
            "VP8 ": b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383),
        }[kind]
        payload = b"WEBP" + kind.encode() + struct.pack("<I", len(body)) + body + b"\0" * 40
        assert reason_of(b"RIFF" + struct.pack("<I", len(payload)) + payload) == "too_many_pixels"

    def test_tiff_with_too_many_values(self) -> None:
        tags = [*BASIC, (273, 4, MAX_TAG_VALUES + 1, 200), (279, 4, 1, 1024)]
        data = tiff(tags, b"\0" * (4 * MAX_TAG_VALUES + 400))
        assert reason_of(data) == "too_complex"
        tags[-2] = (273, 16, MAX_TAG_VALUES + 1, 200)
        assert reason_of(tiff(tags, b"\0" * 2**20, big=True)) == "too_complex"

    @pytest.mark.parametrize("big", [False, True])
    def test_tiff_with_a_tile_of_gigabytes(self, big: bool) -> None:
        tags = [*BASIC, (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 300), (325, 4, 1, 100)]
        assert reason_of(tiff(tags, b"\0" * 500, big=big)) == "too_complex"

    def test_tiff_whose_pages_form_a_circle(self) -> None:
        tags = [*BASIC, (273, 4, 1, 100), (279, 4, 1, 1024)]
        assert decode_image(tiff(tags, b"\0" * 2000)).size == (32, 32)
        assert reason_of(tiff(tags, b"\0" * 2000, next_page=8)) == "too_many_frames"

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
    def test_frames_have_a_limit(self, format: str) -> None:
        frames = [photo((20, 20)).rotate(90 * turn) for turn in range(4)]
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        assert decode_image(data, ImageConfig(max_frames=4)).size == (20, 20)
        assert reason_of(data, ImageConfig(max_frames=3)) == "too_many_frames"

    def test_images_in_one_jpeg_are_frames(self) -> None:
        data = encode(photo(), "MPO", save_all=True, append_images=[photo(), photo()])
        assert decode_image(data, ImageConfig(max_frames=3)).size == (60, 40)
        assert reason_of(data, ImageConfig(max_frames=2)) == "too_many_frames"

    def test_a_large_image_takes_a_small_multiple_of_its_pixels(self) -> None:
        """Measured in a process of its own: 16 million pixels of each deep or transparent kind."""
        script = """
import io, resource, sys
import numpy as np
from PIL import Image
from rapo.images.decode import decode_image
side = 4000
kinds = {
    "I;16": lambda: Image.fromarray(np.zeros((side, side), np.uint16)),
    "F": lambda: Image.fromarray(np.zeros((side, side), np.float32)),
    "RGBA": lambda: Image.new("RGBA", (side, side)),
}
out = io.BytesIO()
kinds[sys.argv[1]]().save(out, "TIFF", compression="tiff_adobe_deflate")
data = out.getvalue()
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
decode_image(data)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stdout.write(str(peak / 1024))
"""
        for kind in ("I;16", "F", "RGBA"):
            ran = subprocess.run([sys.executable, "-c", script, kind], capture_output=True, timeout=60, check=True)
            # A copy as it was, one on the way and the result, of 4 bytes a pixel each, and the
            # interpreter.
            assert float(ran.stdout) < 3.5 * 61 + 120, kind


class TestPolyglots:
    def test_bytes_behind_the_image_change_nothing(self) -> None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("x.html", "<script>alert(1)</script>")
        for format in FORMATS:
            data = encode(photo(), format)
            for tail in (
                archive.getvalue(),
                b"<?php echo 1 ?>",
                b"%PDF-1.7\n",
                encode(photo((30, 30)), "PNG"),
                b"\0" * 9,
            ):
                assert decode_image(data + tail).tobytes() == decode_image(data).tobytes()

    @pytest.mark.parametrize(
        "head", [b"PK\x03\x04", b"%PDF-1.7\n", b"<html>", b"#!/bin/sh\n", b"\0", b"\x7fELF", b"%!PS\n", b" "]
    )
    def test_bytes_before_the_image_make_its_format_unknown(self, head: bytes) -> None:
        for format in ("JPEG", "PNG", "WEBP", "BMP"):
            assert reason_of(head + encode(photo(), format)) == "unknown_format"

    @pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "EPS", "PDF", "PCX", "ICNS", "SGI", "DDS", "SPIDER"])
    def test_other_formats_are_not_opened(self, format: str) -> None:
        assert reason_of(encode(photo((64, 64)), format)) in {"unknown_format", "truncated"}

    def test_a_file_that_names_another_reads_no_other(self) -> None:
        for text in (b"file:///etc/passwd", b"/etc/passwd", b"http://127.0.0.1/x.png", b"<svg><image href='x'/></svg>"):
            assert reason_of(text) == "unknown_format"


class TestKinds:
    @pytest.mark.parametrize(
        ("depth", "color"), [(16, 0), (16, 2), (16, 4), (16, 6), (8, 4), (8, 6), (1, 0), (2, 0), (4, 0)]
    )
    def test_every_depth_of_png(self, depth: int, color: int) -> None:
        image = decode_image(png(depth=depth, color=color))
        assert (image.mode, image.size) == ("RGB", (32, 32))
        if color == 2:
            assert image.getpixel((3, 3)) == (120, 120, 120)

    def test_interlaced_and_grey_with_a_transparent_shade(self) -> None:
        transparent = chunk(b"tRNS", struct.pack(">H", 120))
        assert decode_image(png(transparent, color=0)).getpixel((3, 3)) == (255, 255, 255)

    def test_cmyk_with_a_profile_and_a_turn(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(photo(mode="CMYK"), "JPEG", exif=exif, icc_profile=b"no profile at all" * 10, quality=95)
        image = decode_image(data)
        turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"), int)
        assert image.size == (40, 60)
        assert np.abs(np.asarray(image, int) - turned).max() == 0

    @pytest.mark.parametrize("value", [0, 9, 255, 65535])
    def test_an_unknown_orientation_is_ignored(self, value: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = value
        assert decode_image(encode(photo(), "JPEG", exif=exif)).size == (60, 40)

    @pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -5.0, 1e38])
    def test_special_floats(self, special: float) -> None:
        pixels = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
        pixels[0, 0] = special
        image = decode_image(encode(Image.fromarray(pixels), "TIFF"))
        assert image.size == (32, 32)
        if special != 1e38:
            assert image.getpixel((31, 31)) == (255, 255, 255)

    def test_strips_are_seamless(self) -> None:
        """Alpha and depth are converted in strips of rows; a tall image has several."""
        tall = photo((20, 700), "RGBA")
        tall.putalpha(Image.linear_gradient("L").resize((20, 700)))
        white = Image.new("RGBA", tall.size, (255, 255, 255, 255))
        expected = Image.alpha_composite(white, tall).convert("RGB")
        assert decode_image(encode(tall)).tobytes() == expected.tobytes()
        ramp = np.linspace(0, 65535, 20 * 700).reshape(700, 20).astype(np.uint16)
        image = decode_image(encode(Image.fromarray(ramp)))
        np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rint(ramp / 257.0))


@pytest.mark.parametrize(
    ("format", "mode", "options", "per_pixel"),
    [
        ("JPEG", "RGB", {}, 1.125),
        ("JPEG", "RGB", {"progressive": True}, 2.25),
        ("PNG", "RGBA", {}, 4),
        ("WEBP", "RGB", {}, 4),
        ("WEBP", "RGB", {"lossless": True}, 4),
        ("BMP", "RGB", {}, 1),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 4),
        ("TIFF", "RGB", {"big_tiff": True}, 4),
        ("GIF", "P", {}, 4),
        ("HEIF", "RGB", {}, 16),  # coded in whole blocks of 64
        ("AVIF", "RGB", {}, 10),
        ("JPEG2000", "RGB", {}, 36),
        ("JPEG2000", "L", {}, 12),
        ("PPM", "RGB", {}, 0),
    ],
)
def test_the_work_is_told_before_decoding(format: str, mode: str, options: dict[str, object], per_pixel: float) -> None:
    data = encode(photo((80, 40), mode), format, **options)
    assert check_structure(data, ImageConfig()) == per_pixel * 3200


@pytest.mark.parametrize(
    "magic",
    [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"II+\0" + b"\xff" * 12],
)
def test_the_work_of_a_damaged_file_is_not_known(magic: bytes) -> None:
    assert check_structure(magic, ImageConfig()) >= UNKNOWN_WORK
