"""What an image may be: the same in every call, and one bad item is one outcome."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_scorer import FakeScorer, serving, status
from google.rpc import code_pb2
from PIL import Image as PillowImage

from rapo.client import AsyncScorerClient, CallError, Outcome, ScorerClient
from rapo.client.raydata import ScoreImages
from rapo.errors import ConfigError, ImageError

Call = Callable[[str, Sequence[object]], list[tuple[float | None, str]]]


class Named:
    def __fspath__(self) -> bytes:
        return b"caf\xe9.jpg"


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def target(scorer: FakeScorer) -> Iterator[str]:
    scorer.limits.max_batch = 32
    with serving(scorer) as target:
        yield target


def told(outcomes: Sequence[Outcome]) -> list[tuple[float | None, str]]:
    ordered = sorted(outcomes, key=lambda item: item.index)
    return [(None if item.result is None else item.result.score, str(item.error or "")) for item in ordered]


def score_batch(target, images):
    with ScorerClient(target, timeout=5) as client:
        return told(client.score_batch(images))


def score_many(target, images):
    with ScorerClient(target, timeout=5) as client:
        return told(list(client.score_many(images)))


def stream(target, images):
    with ScorerClient(target, timeout=5) as client:
        return told(list(client.stream(iter(images))))


def rank(target, images):
    with ScorerClient(target, timeout=5) as client:
        return told(client.rank(images).order)


def score(target, images):
    def one(client, image):
        try:
            return client.score(image).score, ""
        except (ImageError, CallError) as error:
            return None, str(error)

    with ScorerClient(target, timeout=5) as client:
        return [one(client, image) for image in images]


def asynchronous(name):
    async def run(target, images):
        async with AsyncScorerClient(target, timeout=5) as client:
            if name == "rank":
                return told((await client.rank(images)).order)
            if name == "score_batch":
                return told(await client.score_batch(images))
            return told([item async for item in getattr(client, name)(images)])

    return lambda target, images: asyncio.run(run(target, images))


def ray_data(target, images):
    scored = ScoreImages(target, null=None)({"bytes": images})
    return list(zip(scored["aesthetic_score"], scored["error"], strict=True))


CALLS = {
    "score": score,
    "score_batch": score_batch,
    "score_many": score_many,
    "stream": stream,
    "rank": rank,
    **{f"aio {name}": asynchronous(name) for name in ("score_batch", "score_many", "stream", "rank")},
    "ray data": ray_data,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_bad_item_is_one_outcome_in_every_call(
    target: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_text("10")
    Path(os.fsdecode(b"caf\xe9.jpg")).write_text("20")
    Path("folder").mkdir()
    os.mkfifo("pipe.jpg")
    pillow = PillowImage.new("RGB", (8, 8))
    good: list[tuple[object, float]] = [
        *((b"1", 0.01), (bytearray(b"2"), 0.02), (memoryview(b"93")[1:], 0.03), (np.bytes_(b"4"), 0.04)),
        *(("a.jpg", 0.1), (Path("a.jpg"), 0.1), (np.str_("a.jpg"), 0.1), (Named(), 0.2)),
    ]
    bad: list[tuple[object, str]] = [
        *((None, "there is no image"), (math.nan, "there is no image"), ("", "there is no image")),
        *((7, "a int is no image"), ([b"1"], "a list is no image"), (pillow, 'image.save(buffer, "PNG")')),
        *((np.zeros((8, 8, 3), np.uint8), "Image.fromarray"), ("gone.jpg", "cannot read gone.jpg: No such file")),
        *(("folder", "cannot read folder"), ("pipe.jpg", "no regular file"), ("null\0byte", "cannot read")),
        *(("x" * 5000, "cannot read xxx"), (b"text", "not an image"), (object(), "a object is no image")),
    ]
    images = [image for pair in zip(good, bad, strict=False) for image, _ in pair] + [image for image, _ in bad[8:]]
    expected = [word for pair in zip(good, bad, strict=False) for _, word in pair] + [word for _, word in bad[8:]]
    found = call(target, images)
    assert len(found) == len(images)
    for (value, error), wanted in zip(found, expected, strict=True):
        if isinstance(wanted, float):
            assert (value, error) == (pytest.approx(wanted), "")
        else:
            assert value is None
            assert wanted in error
            assert len(error) < 500
            assert error.isprintable()


def _kind(images: object) -> str:
    """The name of a case: the same in every process, which the address in a repr is not."""
    return type(images).__name__


@pytest.mark.parametrize("images", ["photo.jpg", b"bytes", Path("photo.jpg"), memoryview(b"1"), 7, None], ids=_kind)
@pytest.mark.parametrize("name", ["score_batch", "score_many", "stream", "rank"])
def test_one_image_is_not_taken_for_many(target: str, scorer: FakeScorer, images: object, name: str) -> None:
    with ScorerClient(target, timeout=5) as client, pytest.raises(ConfigError, match="several images"):
        list(getattr(client, name)(images))
    with pytest.raises(ConfigError, match="several images"):
        asynchronous(name)(target, images)
    assert not scorer.requests


def test_images_without_any_that_can_be_read_are_ranked_all_the_same(target: str) -> None:
    images: list[Any] = ["gone.jpg", None]
    with ScorerClient(target, timeout=5) as client:
        ranking = client.rank(images)
    assert [type(item.error) for item in ranking.order] == [ImageError, ImageError]
    assert all(math.isnan(value) for row in ranking.preference for value in row)


def test_a_file_that_is_too_large_is_not_read(target: str, tmp_path: Path) -> None:
    huge = tmp_path / "huge.tif"
    with huge.open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no room
    (found,) = score_many(target, [huge])
    assert "1,099,511,627,776 bytes" in found[1]


def test_a_version_that_goes_ends_the_job(target: str, scorer: FakeScorer) -> None:
    scorer.failures = [status(code_pb2.NOT_FOUND, "no model version 'v7' is served", "unknown_version")]
    with ScorerClient(target, timeout=5) as client, pytest.raises(CallError, match="'v7' is served"):
        list(client.stream([b"1"]))


@pytest.mark.parametrize("name", ["score_many", "stream"])
def test_a_version_is_kept_by_every_bulk_call(target: str, scorer: FakeScorer, name: str) -> None:
    """The default switches while the images are read."""

    def images() -> Iterator[bytes]:
        for number in range(30):
            if number == 10:
                scorer.default = "v6"
            yield str(number).encode()

    async def asynchronously() -> list[Outcome]:
        async with AsyncScorerClient(target, timeout=5) as client:
            return [item async for item in getattr(client, name)(images())]

    with ScorerClient(target, timeout=5) as client:
        found: list[Outcome] = list(getattr(client, name)(images(), in_flight=4))
    scorer.default = "v7"
    found += asyncio.run(asynchronously())
    assert len(found) == 60
    assert {item.result.model_version for item in found if item.result is not None} == {"v7"}
    assert all(item.result is not None for item in found)


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_this_machine_is_reached_past_a_proxy(target: str, name: str) -> None:
    code = f"from rapo import ScorerClient; print(ScorerClient({target!r}, 5, attempts=1).score(b'50').score)"
    environment = {key: value for key, value in os.environ.items() if key not in ("no_proxy", "no_grpc_proxy")}
    environment[name] = "http://127.0.0.1:9"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "0.5", done.stderr


def test_the_client_needs_neither_numpy_nor_pillow() -> None:
    code = (
        "import sys, rapo.client, rapo.raydata; "
        "sys.exit(','.join(m for m in ('numpy', 'PIL', 'pydantic', 'ray') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
