"""Colours stated by numbers instead of a profile: wide gamuts and PQ become sRGB, in every format
alike."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from icc import BT_2020, DISPLAY_P3, SRGB, icc_profile
from PIL import Image

from rapo.config import ImageConfig
from rapo.images.decode import decode_image
from rapo.images.decoder import DecodeJob, Decoder, DecoderHost, DecoderLimits
from rapo.images.stated_colours import StatedColours, stated_colours
from rapo.images.wide_gamut import to_srgb

COLOUR = (120, 200, 90)
BT709, BT2020, P3 = 1, 9, 12
AS_SRGB, LIKE_VIDEO, PQ, HLG = 13, 1, 16, 18
FORMATS = ("HEIF", "AVIF", "PNG")


def encode(format: str, primaries: int, transfer: int, colour: tuple[int, ...] = COLOUR, **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB" if len(colour) == 3 else "RGBA", (48, 32), colour)
    if format == "HEIF":
        image.save(out, format, quality=-1, chroma=444, color_primaries=primaries, transfer_characteristics=transfer,
                   matrix_coefficients=6, full_range_flag=1, **options)  # fmt: skip
        return out.getvalue()
    image.save(out, format, **({"quality": 100, "subsampling": "4:4:4"} if format == "AVIF" else {}), **options)
    data = out.getvalue()
    if format == "AVIF":
        at = data.index(b"colrnclx") + 8
        return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]
    body = b"cICP" + bytes((primaries, transfer, 0, 1))
    return data[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def pixel(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, ImageConfig(min_side=1)), int)[5, 7]


def by_matrices(primaries: tuple[tuple[float, float, float], ...], colour: tuple[int, ...] = COLOUR) -> np.ndarray:
    """The colour in sRGB, by way of the matrices of the profiles, which are adapted to D50."""
    code = np.array(colour) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    light = np.linalg.solve(np.array(SRGB).T, np.array(primaries).T @ linear).clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("primaries", "matrix"), [(P3, DISPLAY_P3), (BT2020, BT_2020)], ids=["display p3", "bt 2020"])
@pytest.mark.parametrize("transfer", [AS_SRGB, LIKE_VIDEO, HLG])
def test_a_stated_wide_gamut_becomes_srgb(
    format: str, primaries: int, matrix: tuple[tuple[float, float, float], ...], transfer: int
) -> None:
    found = pixel(encode(format, primaries, transfer))
    assert np.abs(found - by_matrices(matrix)).max() < (1.5 if format == "PNG" else 5)
    assert found[0] < COLOUR[0] - 15


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("primaries", "transfer"), [(BT709, AS_SRGB), (BT709, LIKE_VIDEO), (2, 2), (6, 6), (5, 14)])
def test_other_statements_keep_the_pixels(format: str, primaries: int, transfer: int) -> None:
    kept = encode(format, BT709, AS_SRGB)
    stated = encode(format, primaries, transfer)
    assert stated_colours(stated) == StatedColours(primaries, transfer)
    assert decode_image(stated).tobytes() == decode_image(kept).tobytes()
    assert np.abs(pixel(stated) - np.array(COLOUR)).max() <= 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("code", "cd", "shown"), [(0, 0, 0), (112, 50, 123), (148, 203, 191), (192, 1_000, 255)])
def test_pq_is_compressed_into_the_range(format: str, code: int, cd: int, shown: int) -> None:
    """Codes of ST 2084 in 8 bits for so many cd/m²; white paper has the code of HLG, .75."""
    found = pixel(encode(format, BT2020, PQ, (code, code, code)))
    assert np.abs(found - shown).max() <= 3, cd


@pytest.mark.parametrize("format", FORMATS)
def test_greys_stay_grey(format: str) -> None:
    for primaries in (P3, BT2020):
        assert np.abs(pixel(encode(format, primaries, AS_SRGB, (77, 77, 77))) - 77).max() <= 2


@pytest.mark.parametrize("format", FORMATS)
def test_a_profile_goes_first(format: str) -> None:
    both = encode(format, BT2020, PQ, icc_profile=icc_profile(DISPLAY_P3))
    assert np.abs(pixel(both) - by_matrices(DISPLAY_P3)).max() < 8


def test_what_another_image_of_the_file_states_does_not_count() -> None:
    def box(kind: bytes, *content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)

    def file(main: int) -> bytes:
        colours = [box(b"colr", b"nclx", struct.pack(">HHHB", one, AS_SRGB, 6, 128)) for one in (BT709, P3)]
        profile = box(b"colr", b"prof", b"\0" * 40)
        links = struct.pack(">HBBB", 1, 2, 3, 1) + struct.pack(">HBB", 2, 1, 0x82)
        return box(b"ftyp", b"avif\0\0\0\0mif1") + box(
            b"meta",
            b"\0" * 4,
            box(b"pitm", struct.pack(">IH", 0, main)),
            box(b"iprp", box(b"ipco", *colours, profile), box(b"ipma", struct.pack(">II", 0, 2), links)),
        )

    assert stated_colours(file(1)) == StatedColours(BT709, AS_SRGB)
    assert stated_colours(file(2)) == StatedColours(P3, AS_SRGB)
    assert stated_colours(file(3)) is None


@pytest.mark.parametrize("format", FORMATS)
def test_a_decoder_process_converts_as_well(format: str) -> None:
    data, limits = encode(format, P3, AS_SRGB), ImageConfig()
    host = DecoderHost(limits)
    try:
        decoder = Decoder(host, DecoderLimits(cpu_s=5, memory=2**29, wait_s=20, images=3))
        np.testing.assert_array_equal(decoder.decode(DecodeJob(data)), np.asarray(decode_image(data, limits)))
        decoder.close()
    finally:
        host.close()


@pytest.mark.parametrize("format", FORMATS)
def test_damage_is_no_statement(format: str) -> None:
    data = encode(format, P3, AS_SRGB)
    rng = np.random.default_rng(5)
    for _ in range(300):
        spoiled = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 4):
            spoiled[place] = rng.integers(0, 256)
        stated_colours(bytes(spoiled[: rng.integers(1, len(data) + 1)]))


def test_a_large_image_is_converted_piece_by_piece() -> None:
    y, x = np.mgrid[0:3, 0:200_000]
    wide = Image.fromarray(np.stack([x % 256, y * 80, (x // 256) % 256], axis=-1).astype(np.uint8))
    tracemalloc.start()
    converted = to_srgb(wide.copy(), StatedColours(P3, AS_SRGB))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    columns = [0, 255, 100_000, 199_999]
    for column in columns:
        one = to_srgb(wide.crop((column, 0, column + 1, 3)), StatedColours(P3, AS_SRGB))
        assert one.tobytes() == converted.crop((column, 0, column + 1, 3)).tobytes()


def test_usual_images_pay_nothing() -> None:
    data = encode("AVIF", BT709, AS_SRGB)
    began = time.process_time()
    for _ in range(100):
        stated_colours(data)
    assert time.process_time() - began < 0.2
