"""Requests that a scorer should never get, each with the status codes that are right for it.

What is right is known for each: images are judged by `rapo.images.decode.decode_image` itself,
everything else by how it was made. Nothing here comes from outside; all is built from a seed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

import grpc
import numpy as np
from google.protobuf.message import Message
from PIL import Image

from bench.support.corpus import Corpus
from bench.support.mutation import mutate, mutate_message
from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import FORMATS, decode_image
from rapo.v1 import scorer_pb2

Code = grpc.StatusCode

#: Limits under which images are judged: the server's defaults, but for the size of its own
#: messages.
LIMITS = ImageConfig()

_LARGEST = 2**20  # of a mutation of a mutation; more is a matter for `_oversized`
METHODS = ("Score", "ScoreBatch", "Rank", "Explain", "GetModel", "ScoreStream")
_UNREADABLE = frozenset({Code.INVALID_ARGUMENT, Code.NOT_FOUND})


@dataclass(frozen=True, slots=True)
class Case:
    """One call. `messages` are raw; several for ScoreStream only. `items` are the right outcomes of
    its images, by place (ScoreBatch, Rank) or request id (ScoreStream): True for a score, else the
    reason of the image error."""

    kind: str
    method: str
    messages: tuple[bytes, ...]
    codes: frozenset[grpc.StatusCode]
    items: dict[str, str | bool] = field(default_factory=dict)
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout_s: float = 30.0
    cancel_after_s: float | None = None


def cases(seed: int, max_message_bytes: int, corpus: Corpus | None = None) -> Iterator[Case]:
    """Cases without end, a function of the seed and of the corpus, which grows with them."""
    rng = Random(seed)
    makers = (
        (_image, 40), (_garbage, 12), (_mutated, 10), (_batch, 10), (_rank, 6), (_stream, 8), (_fields, 8),
        (_unknown_method, 2), (_metadata, 2), (_hurried, 4), (_oversized, 0.3),
    )  # fmt: skip
    kinds, weights = zip(*makers, strict=True)
    while True:
        maker = rng.choices(kinds, weights)[0]
        if maker is _oversized:
            yield _oversized(rng, max_message_bytes)
        else:
            yield _image(rng, corpus) if maker is _image else maker(rng)


def verdict(image: bytes) -> str | bool:
    """True where the image can be decoded, else the reason why not."""
    try:
        decode_image(image, LIMITS)
    except ImageError as error:
        return error.reason
    return True


def make_image(rng: Random, corpus: Corpus | None = None) -> bytes:
    """An image, or what claims to be one."""
    data = bytearray(_clean(rng.randrange(len(_CLEAN))))
    kind = rng.randrange(15)
    if kind >= 10:
        kept = corpus.pick(rng) if corpus is not None and rng.random() < 0.7 else None
        return mutate(kept or bytes(data), rng)[:_LARGEST]
    if kind == 0:
        return bytes(data)
    if kind == 1:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 2:
        return rng.randbytes(rng.choice((0, 1, 12, 300, 5000)))
    if kind == 3:
        return bytes(data) + rng.randbytes(rng.randrange(500))
    if kind == 4:
        return rng.choice((b"PK\x03\x04", b"%PDF-1.7\n", b"<html>", b"GIF89a", b"\0")) + bytes(data)
    if kind == 5:
        return rng.choice(_bombs())
    if kind == 6:
        at = rng.randrange(len(data))
        return bytes(data[:at]) + rng.randbytes(rng.randrange(40)) + bytes(data[at:])
    if kind == 7:  # the header alone
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(min(len(data), 64))] = rng.randrange(256)
        return bytes(data)
    if kind == 8:
        at, other = rng.randrange(len(data)), _clean(rng.randrange(len(_CLEAN)))
        return bytes(data[:at]) + other[rng.randrange(len(other)) :]
    for _ in range(rng.randint(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _image(rng: Random, corpus: Corpus | None = None) -> Case:
    image, method = make_image(rng, corpus), rng.choice(("Score", "Score", "Score", "Explain"))
    request = scorer_pb2.ScoreRequest(image=image, request_id=f"p{rng.getrandbits(40)}")
    right = verdict(image) if corpus is None else corpus.verdict(image)
    codes = frozenset({Code.OK if right is True else Code.INVALID_ARGUMENT})
    return Case("image", method, (request.SerializeToString(),), codes, {"": right})


def _garbage(rng: Random) -> Case:
    method = rng.choice(METHODS)
    body = rng.randbytes(rng.choice((0, 1, 2, 5, 20, 200, 3000)))
    # Random bytes may be a message by chance, of unknown fields mostly; none of them holds an
    # image.
    codes = _UNREADABLE | ({Code.OK} if method in ("GetModel", "ScoreBatch") else frozenset())
    return Case("garbage", method, (body,), codes)


def _mutated(rng: Random) -> Case:
    method = rng.choice(("Score", "ScoreBatch", "Rank", "Explain"))
    images = [_clean(rng.randrange(len(_CLEAN))) for _ in range(3)]
    singles = [scorer_pb2.ScoreRequest(image=image, request_id=f"m{i}") for i, image in enumerate(images)]
    message: Message = {
        "ScoreBatch": scorer_pb2.ScoreBatchRequest(requests=singles),
        "Rank": scorer_pb2.RankRequest(images=images, request_id="m"),
    }.get(method, singles[0])
    data = bytearray(message.SerializeToString())
    if rng.random() < 0.5:
        return Case("mutated-fields", method, (mutate_message(bytes(data), rng),), _UNREADABLE | {Code.OK})
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(min(len(data), rng.choice((16, 10**9))))] = rng.randrange(256)
    return Case("mutated", method, (bytes(data),), _UNREADABLE | {Code.OK})


def _batch(rng: Random) -> Case:
    images = [make_image(rng) for _ in range(rng.choice((0, 1, 2, 5, 70)))]
    if len(images) == 70:
        images = [b"x"] * 70
    requests = [scorer_pb2.ScoreRequest(image=image) for image in images]
    right = 1 <= len(images) <= 64
    items = {str(place): verdict(image) for place, image in enumerate(images)} if right else {}
    message = scorer_pb2.ScoreBatchRequest(requests=requests).SerializeToString()
    return Case("batch", "ScoreBatch", (message,), frozenset({Code.OK if right else Code.INVALID_ARGUMENT}), items)


def _rank(rng: Random) -> Case:
    images = [make_image(rng) for _ in range(rng.choice((0, 1, 2, 4)))]
    right = len(images) >= 2
    items = {str(place): verdict(image) for place, image in enumerate(images)} if right else {}
    message = scorer_pb2.RankRequest(images=images).SerializeToString()
    return Case("rank", "Rank", (message,), frozenset({Code.OK if right else Code.INVALID_ARGUMENT}), items)


def _stream(rng: Random) -> Case:
    images = [make_image(rng) for _ in range(rng.randint(0, 6))]
    ids = [f"s{place}" for place in range(len(images))]
    requests = [scorer_pb2.ScoreRequest(image=image, request_id=i) for image, i in zip(images, ids, strict=True)]
    messages = [request.SerializeToString() for request in requests]
    end = rng.randrange(5)
    if end == 0:
        messages.insert(rng.randint(0, len(messages)), b"\xff" * 9)
        return Case("stream-garbage", "ScoreStream", tuple(messages), frozenset({Code.INVALID_ARGUMENT}))
    if end == 1:
        wrong = scorer_pb2.ScoreRequest(image=b"x", request_id=rng.choice(("", "a b", "\n", "é", "x" * 200)))
        messages.insert(rng.randint(0, len(messages)), wrong.SerializeToString())
        return Case("stream-id", "ScoreStream", tuple(messages), frozenset({Code.INVALID_ARGUMENT}))
    if end == 2:
        codes = frozenset({Code.OK, Code.CANCELLED})
        return Case("stream-cancelled", "ScoreStream", tuple(messages), codes, cancel_after_s=rng.random() * 0.02)
    items = {i: verdict(image) for i, image in zip(ids, images, strict=True)}
    return Case("stream", "ScoreStream", tuple(messages), frozenset({Code.OK}), items)


def _fields(rng: Random) -> Case:
    text = rng.choice(("", "v" * 5000, "../../etc/passwd", "\0", "'; drop", "é" * 300, "\u202e", "{}", "%s%n"))
    request = scorer_pb2.ScoreRequest(image=_clean(0), request_id=rng.choice((text, "fine")))
    if rng.random() < 0.5:
        request.model_version = text
    codes = frozenset({Code.NOT_FOUND if request.model_version else Code.OK})
    return Case("fields", "Score", (request.SerializeToString(),), codes, {"": True} if Code.OK in codes else {})


def _unknown_method(rng: Random) -> Case:
    name = rng.choice(("Nothing", "score", "Score/", "../Score", "x" * 2000))
    return Case("method", name, (rng.randbytes(20),), frozenset({Code.UNIMPLEMENTED}))


def _metadata(rng: Random) -> Case:
    names = (
        "x-rapo-gateway",
        "application",
        "multiplexed_model_id",
        "request_id",
        "authorization",
        "traceparent",
        "x-bin",
    )
    name = rng.choice(names)
    value: str | bytes = rng.randbytes(rng.randrange(200)) if name.endswith("-bin") else "forged" * rng.randint(0, 100)
    request = scorer_pb2.ScoreRequest(image=_clean(0))
    message = request.SerializeToString()
    return Case("metadata", "Score", (message,), frozenset({Code.OK}), {"": True}, metadata=((name, value),))


def _hurried(rng: Random) -> Case:
    image = make_image(rng)
    request = scorer_pb2.ScoreRequest(image=image)
    right = Code.OK if verdict(image) is True else Code.INVALID_ARGUMENT
    codes = frozenset({right, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
    if rng.random() < 0.5:
        return Case("deadline", "Score", (request.SerializeToString(),), codes, timeout_s=rng.random() * 0.01)
    return Case("cancelled", "Score", (request.SerializeToString(),), codes, cancel_after_s=rng.random() * 0.01)


def _oversized(rng: Random, max_message_bytes: int) -> Case:
    body = bytes(max_message_bytes + rng.randint(1, 1000))
    method = rng.choice(METHODS)
    return Case("oversized", method, (body,), frozenset({Code.RESOURCE_EXHAUSTED}))


# Format, mode, size and options of the images that all the others are made from.
_CLEAN: tuple[tuple[str, str, tuple[int, int], dict[str, object]], ...] = (
    ("JPEG", "RGB", (64, 48), {}),
    ("JPEG", "CMYK", (40, 40), {}),
    ("JPEG", "L", (90, 30), {"progressive": True}),
    ("PNG", "RGB", (33, 47), {}),
    ("PNG", "RGBA", (40, 40), {}),
    ("PNG", "P", (40, 40), {"transparency": 3}),
    ("PNG", "I;16", (32, 32), {}),
    ("PNG", "1", (70, 20), {}),
    ("WEBP", "RGB", (64, 48), {}),
    ("WEBP", "RGBA", (30, 30), {"lossless": True}),
    ("BMP", "RGB", (40, 30), {}),
    ("TIFF", "RGB", (40, 30), {"compression": "tiff_lzw"}),
    ("TIFF", "F", (32, 32), {}),
    ("TIFF", "CMYK", (24, 24), {"compression": "tiff_adobe_deflate"}),
    ("GIF", "P", (40, 40), {}),
    ("HEIF", "RGB", (64, 48), {}),
    ("AVIF", "RGBA", (40, 40), {}),
    ("JPEG2000", "RGB", (40, 40), {}),
    ("PPM", "RGB", (40, 40), {}),
)


@lru_cache(maxsize=len(_CLEAN))
def _clean(place: int) -> bytes:
    format, mode, (width, height), options = _CLEAN[place]
    noise = np.random.default_rng(place).integers(0, 255, (height, width, 3), dtype=np.uint8)
    base = Image.fromarray(noise)
    image = base.convert("L").convert(mode) if mode in ("F", "I;16") else base.convert(mode)
    out = io.BytesIO()
    image.save(out, format, **options)
    assert format in (*FORMATS, "PPM")
    return out.getvalue()


@lru_cache(maxsize=1)
def _bombs() -> tuple[bytes, ...]:
    """Small files that claim, or unpack to, far more than they hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width: int, height: int, *more: bytes, rows: bytes = b"\0" * 1000) -> bytes:
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        tail = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + tail

    def tiff(*tags: tuple[int, int, int, int], following: int = 0) -> bytes:
        basic = ((256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1))
        entries = sorted((*basic, *tags))
        body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + b"\0" * 2000

    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 5_000_000, 9))
    canvas = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + (16382).to_bytes(3, "little") * 2 + b"\0" * 40
    jpeg = _clean(2)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return (
        png(60_000, 60_000),
        png(12_000, 12_000),
        png(2**31 - 1, 2**31 - 1),
        png(0, 0),
        png(32, 32, text),
        png(64, 64, rows=b"\0" * 20_000_000),
        png(32, 32, *[chunk(b"teSt", b"")] * 20_001),
        b"RIFF" + struct.pack("<I", len(canvas)) + canvas,
        jpeg[:-2] + scan * 200 + b"\xff\xd9",
        tiff((273, 4, 1, 120), following=8),
        tiff((322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 120), (325, 4, 1, 100)),
        tiff((273, 4, 2**31, 120)),
    )
