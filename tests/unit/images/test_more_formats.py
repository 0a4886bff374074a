"""GIF, HEIF, AVIF and JPEG 2000: what is decoded of them, and what is refused before."""

from __future__ import annotations

import io
import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images import structure_gif, structure_jpeg2000
from rapo.images.decode import check_image_file, decode_image
from rapo.images.decoder import DecodeJob, Decoder, DecoderHost, DecoderLimits
from rapo.images.structure import UNKNOWN_WORK, check_structure

NEW = ("GIF", "HEIF", "AVIF", "JPEG2000")


def photo(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x * 255 // size[0], y * 255 // size[1], (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def reason_of(data: bytes, limits: ImageConfig = ImageConfig()) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, limits)
    return caught.value.reason


def structure_reason(data: bytes, limits: ImageConfig = ImageConfig()) -> str:
    with pytest.raises(ImageError) as caught:
        check_structure(data, limits)
    return caught.value.reason


def test_of_an_animation_the_first_frame_is_decoded() -> None:
    red, *others = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "white"))
    for format in ("GIF", "AVIF"):
        data = encode(red, format, save_all=True, append_images=others, duration=100)
        assert np.abs(np.asarray(decode_image(data), int)[20, 20] - (255, 0, 0)).max() < 6
        assert reason_of(data, ImageConfig(max_frames=2)) == "too_many_frames"


def test_a_transparent_gif_lies_on_white() -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.paste(1, (0, 0, 16, 32))
    shown = np.asarray(decode_image(encode(image, "GIF", transparency=0)))
    assert shown[0, 0].tolist() == [200, 100, 0]
    assert shown[0, 31].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_orientation_is_applied_once(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode_image(encode(photo((64, 32)), format, exif=exif.tobytes(), quality=90))
    turned = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_270,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    expected = photo((64, 32)) if turned is None else photo((64, 32)).transpose(turned)
    assert shown.size == expected.size
    assert np.abs(np.asarray(shown, int) - np.asarray(expected, int)).mean() < 5


@pytest.mark.parametrize("format", ["HEIF", "AVIF", "JPEG2000"])
def test_transparency_lies_on_white(format: str) -> None:
    shown = np.asarray(decode_image(encode(Image.new("RGBA", (64, 64), (200, 0, 0, 0)), format)), int)
    assert shown.min() > 250


def test_a_bare_codestream_is_jpeg_2000() -> None:
    whole = encode(photo(), "JPEG2000")
    bare = whole[whole.index(structure_jpeg2000.CODESTREAM) :]
    assert decode_image(bare).tobytes() == decode_image(whole).tobytes() == photo().tobytes()


@pytest.mark.parametrize("format", NEW)
def test_limits_hold_before_a_pixel_is_decoded(format: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo((64, 48)), format)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("a pixel was decoded"))
    assert reason_of(data, ImageConfig(max_pixels=64 * 48 - 1)) == "too_many_pixels"
    assert structure_reason(data, ImageConfig(max_pixels=64 * 48 - 1)) == "too_many_pixels"
    assert reason_of(data, ImageConfig(max_bytes=len(data) - 1)) == "too_many_bytes"
    assert reason_of(data, ImageConfig(min_side=49)) == "too_small"


@pytest.mark.parametrize("format", NEW)
def test_the_header_of_a_file_is_enough(format: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("images") / f"image.{format}"
    path.write_bytes(encode(photo((64, 48)), format))
    check_image_file(path, decode=False)


@pytest.mark.parametrize("format", NEW)
def test_damage_is_an_error_of_the_image(format: str) -> None:
    data = encode(photo((64, 48)), format)
    rng = np.random.default_rng(3)
    for _ in range(120):
        spoiled = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            spoiled[place] = rng.integers(0, 256)
        cut = bytes(spoiled[: rng.integers(1, len(data) + 1)])
        with suppress(ImageError):
            assert decode_image(cut, ImageConfig(max_pixels=10**6)).mode == "RGB"


@pytest.mark.parametrize("format", NEW)
def test_a_decoder_process_gives_the_same_pixels(format: str) -> None:
    limits = ImageConfig()
    data = encode(photo((200, 150)), format)
    host = DecoderHost(limits)
    try:
        decoder = Decoder(host, DecoderLimits(cpu_s=5, memory=2**29, wait_s=20, images=3))
        np.testing.assert_array_equal(decoder.decode(DecodeJob(data)), np.asarray(decode_image(data, limits)))
        decoder.close()
    finally:
        host.close()


class TestGif:
    def test_a_first_frame_beyond_the_canvas_counts(self) -> None:
        data = bytearray(encode(photo((20, 20)), "GIF"))
        at = data.index(b"\x2c\0\0\0\0")
        data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
        assert structure_reason(bytes(data)) == "too_many_pixels"

    def test_tiny_blocks_cost_no_time(self) -> None:
        data = encode(photo((20, 20)), "GIF")[:-1] + b"\x21\xfe" + b"\x01x" * 3_000_000 + b"\0;"
        began = time.process_time()
        assert structure_reason(data) == "too_complex"
        assert time.process_time() - began < 2
        fits = b"\x01x" * (structure_gif.MAX_BLOCKS - 1_000)
        assert check_structure(encode(photo((20, 20)), "GIF")[:-1] + b"\x21\xfe" + fits + b"\0;", ImageConfig())

    @pytest.mark.parametrize(
        "piece", [b"\x21\xfe\0", b"\0", b"\0\x21\xfe\x01x\0"], ids=["empty extensions", "zeros", "behind a zero"]
    )
    def test_what_the_decoder_passes_over_counts(self, piece: bytes) -> None:
        head = b"GIF89a" + struct.pack("<HHBBB", 20, 20, 0, 0, 0)
        assert structure_reason(head + piece * (structure_gif.MAX_BLOCKS + 1)) == "too_complex"
        first = encode(photo((20, 20)), "GIF")
        assert check_structure(first[:-1] + b"\0" * 2 * structure_gif.MAX_BLOCKS, ImageConfig()) == 4 * 400


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def heif(
    items: int,
    size: tuple[int, int],
    references: dict[int, list[int]],
    brand: bytes = b"heic",
    properties: int = 1,
    *,
    links_first: bool = False,
    more: bytes = b"",
) -> bytes:
    """The tables of a file whose item 1 is the image; all items have the same size."""
    ispe = box(b"ispe", struct.pack(">III", 0, *size)) * properties
    links = b"".join(struct.pack(">HBB", item, 1, 1) for item in range(1, items + 1))
    made_of = b"".join(
        box(b"dimg", struct.pack(f">HH{len(parts)}H", item, len(parts), *parts)) for item, parts in references.items()
    )
    tables = [box(b"ipco", ispe), box(b"ipma", struct.pack(">II", 0, items), links)]
    return box(b"ftyp", brand, b"\0\0\0\0", b"mif1", brand) + box(
        b"meta",
        b"\0\0\0\0",
        box(b"pitm", struct.pack(">IH", 0, 1)),
        box(b"iprp", *(reversed(tables) if links_first else tables)),
        box(b"iref", b"\0\0\0\0", made_of),
        more,
    )


class TestHeif:
    @pytest.mark.parametrize("brand", [b"heic", b"avif", b"mif1"])
    def test_the_size_of_any_item_is_limited(self, brand: bytes) -> None:
        assert structure_reason(heif(2, (60_000, 60_000), {}, brand)) == "too_many_pixels"
        assert check_structure(heif(2, (100, 100), {}, brand), ImageConfig()) == 10 * 10_000

    def test_tiles_count_as_often_as_they_are_named(self) -> None:
        assert check_structure(heif(5, (100, 100), {1: [2, 3, 4, 5]}), ImageConfig()) == 10 * 50_000
        assert structure_reason(heif(2, (1000, 1000), {1: [2] * 400})) == "too_complex"

    def test_tables_count_in_any_order_and_for_every_item(self) -> None:
        tiles = {1: [2] * 400}
        assert structure_reason(heif(2, (1000, 1000), tiles, links_first=True)) == "too_complex"
        assert structure_reason(heif(3, (1000, 1000), {3: [2] * 400})) == "too_complex"  # its transparency

    @pytest.mark.parametrize("kind", [b"pitm", b"iprp", b"iref"])
    def test_a_second_table_is_refused(self, kind: bytes) -> None:
        assert structure_reason(heif(1, (10, 10), {}, more=box(kind, b"\0" * 6))) == "too_complex"
        one = heif(1, (10, 10), {})
        assert structure_reason(one + one[one.index(b"meta") - 4 :]) == "too_complex"

    def test_images_made_of_images_made_of_images_are_refused(self) -> None:
        doubling = {item: [item + 1] * 60 for item in range(1, 6)}
        assert structure_reason(heif(6, (100, 100), doubling)) == "too_complex"
        assert structure_reason(heif(2, (100, 100), {1: [2], 2: [1]})) == "too_complex"

    def test_too_many_items_are_refused(self) -> None:
        assert structure_reason(heif(9_000, (10, 10), {})) == "too_complex"
        assert structure_reason(heif(1, (10, 10), {}, properties=9_000)) == "too_complex"

    @pytest.mark.parametrize("format", ["HEIF", "AVIF"])
    def test_files_of_this_machine_pass(self, format: str) -> None:
        assert 0 < check_structure(encode(photo((300, 200)), format), ImageConfig()) < UNKNOWN_WORK


def codestream(
    size: tuple[int, int] = (512, 512),
    tile: tuple[int, int] = (512, 512),
    *,
    components: int = 3,
    layers: int = 1,
    levels: int = 5,
    block: int = 4,
    precincts: bytes = b"",
) -> bytes:
    """The main header of a JPEG 2000 codestream and the begin of a tile."""
    siz = struct.pack(">H8IH", 0, *size, 0, 0, *tile, 0, 0, components) + b"\x07\x01\x01" * components
    cod = struct.pack(">BBHBBBBBB", bool(precincts), 0, layers, 0, levels, block, block, 0, 1) + precincts
    return b"".join(
        (
            b"\xff\x4f\xff\x51",
            struct.pack(">H", 2 + len(siz)),
            siz,
            b"\xff\x52",
            struct.pack(">H", 2 + len(cod)),
            cod,
            b"\xff\x90\x00\x0a" + struct.pack(">HIBB", 0, 0, 0, 1) + b"\xff\x93",
        )
    )


class TestJpeg2000:
    def test_usual_settings_pass(self) -> None:
        assert check_structure(codestream(), ImageConfig()) == 12 * 3 * 512 * 512
        assert check_structure(codestream((8000, 6000), (8000, 6000), layers=12), ImageConfig())
        assert check_structure(codestream((8000, 6000), (256, 256)), ImageConfig())

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (codestream((60_000, 60_000), (60_000, 60_000)), "too_many_pixels"),
            (codestream((6000, 6000), (16, 16)), "too_complex"),
            (codestream((6000, 6000), (6000, 6000), block=0), "too_complex"),
            (codestream((6000, 6000), (6000, 6000), precincts=b"\x11" * 6), "too_complex"),
            (codestream((6000, 6000), (1024, 1024), layers=65_535), "too_complex"),
            (codestream(components=200), "too_complex"),
        ],
        ids=["pixels", "tiles", "blocks", "precincts", "layers", "components"],
    )
    def test_what_costs_too_much_is_refused(self, data: bytes, reason: str) -> None:
        assert structure_reason(data) == reason
        boxed = structure_jpeg2000.SIGNATURE + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2c", data)
        assert structure_reason(boxed) == reason

    @pytest.mark.parametrize("before", ["an unknown marker", "an empty part of a tile"])
    def test_settings_count_wherever_the_decoder_finds_them(self, before: str) -> None:
        """The decoder gives the image, so that it has read the settings that lie there."""
        usual = encode(photo((64, 64)), "JPEG2000", no_jp2=True)
        at, tile = usual.index(b"\xff\x52"), usual.index(b"\xff\x90\0\x0a")
        end = at + 2 + struct.unpack_from(">H", usual, at + 2)[0]
        style = usual[at:end]
        costly = style[:6] + b"\xff\xff" + style[8:9] + b"\x20" + style[10:]  # layers and levels
        size = struct.unpack_from(">I", usual, tile + 6)[0] + len(style)
        for settings, refused in ((style, False), (costly, True)):
            if before == "an unknown marker":
                data = usual[:at] + b"\xff\x30" + struct.pack(">H", 2 + len(style)) + settings + usual[end:]
            else:
                empty = b"\xff\x90\0\x0a" + struct.pack(">HIBB", 0, 12, 0, 2) + b"\xff\x93"
                second = b"\xff\x90\0\x0a" + struct.pack(">HIBB", 0, size, 1, 2) + settings
                data = usual[:tile] + empty + second + usual[tile + 12 :]
            if refused:
                assert structure_reason(data) == "too_complex"
            else:
                assert decode_image(data).tobytes() == photo((64, 64)).tobytes()

    def test_the_settings_of_a_tile_count(self) -> None:
        head = codestream((6000, 6000), (6000, 6000))
        style = struct.pack(">HHBBHBBBBBB", 0xFF52, 18, 1, 0, 1, 0, 5, 4, 4, 0, 1) + b"\x11" * 6
        tile = head[:-2]
        assert structure_reason(tile + style + b"\xff\x93") == "too_complex"
        assert check_structure(head, ImageConfig())
