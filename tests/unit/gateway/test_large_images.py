"""Large images: those that the replica would refuse are refused by the gateway in its words, and
the others are passed on in turns."""

from __future__ import annotations

import asyncio
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import FakeDeployment, details_of, settings_for, unpacked, upstream_of

from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.gateway import large_images
from services.gateway.large_images import LARGE, LargeImages
from services.gateway.server import Gateway
from services.replica.decoding import ImageInspector
from services.statuses import TIME_OVER, Refused

LIMITS = ImageConfig(max_bytes=3 * LARGE)


def png(chunks: int, size: int) -> bytes:
    """A PNG with so many texts of so many bytes."""
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "PNG")
    clean = out.getvalue()
    text = b"iTXt" + bytes(size)
    return clean[:33] + (struct.pack(">I", size) + text + struct.pack(">I", zlib.crc32(text))) * chunks + clean[33:]


REFUSED = {
    "too_complex": png(100, LARGE // 64),
    "too_many_bytes": bytes(3 * LARGE + 1),
    "too_many_pixels": b"RIFF\0\0\0\0WEBPVP8X" + b"\xff" * (LARGE + 1),
    "too_many_frames": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sI", 13, b"IHDR", 8) + bytes(13)
    + struct.pack(">I4sI", 8, b"acTL", 5000) + bytes(LARGE),
}  # fmt: skip
SCORED = b"-" * LARGE + b":0.5"


@pytest.fixture
def deployment() -> FakeDeployment:
    return FakeDeployment()


@pytest.fixture
def stub(deployment: FakeDeployment) -> Iterator[scorer_pb2_grpc.AestheticScorerStub]:
    with upstream_of(deployment) as upstream:
        settings = replace(settings_for(upstream), max_message_bytes=16 * LARGE, image=LIMITS)
        options = [("grpc.max_send_message_length", -1)]
        with Gateway(settings) as gateway, grpc.insecure_channel(gateway.address, options) as channel:
            yield scorer_pb2_grpc.AestheticScorerStub(channel)


def in_the_replica(image: bytes) -> ImageError:
    inspector = ImageInspector(LIMITS)
    with pytest.raises(ImageError) as error:
        asyncio.run(inspector.inspect(image))
    inspector.close()
    return error.value


@pytest.mark.parametrize("reason", REFUSED)
def test_the_gateway_refuses_in_the_words_of_the_replica(
    stub: scorer_pb2_grpc.AestheticScorerStub, deployment: FakeDeployment, reason: str
) -> None:
    request = scorer_pb2.ScoreRequest(image=REFUSED[reason], request_id="mine")
    expected = in_the_replica(REFUSED[reason])
    for call in (stub.Score, lambda request: list(stub.Explain(request))):
        with pytest.raises(grpc.RpcError) as error:
            call(request)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error.value.details() == str(expected)
        details = details_of(error.value)
        assert details["ErrorInfo"].reason == expected.reason == reason
        assert details["BadRequest"].field_violations[0].field == "image"
    assert not deployment.seen


def test_in_a_batch_each_large_image_has_its_own_outcome(
    stub: scorer_pb2_grpc.AestheticScorerStub, deployment: FakeDeployment
) -> None:
    images = (REFUSED["too_complex"], SCORED, b"0.25")
    batch = scorer_pb2.ScoreBatchRequest(requests=[scorer_pb2.ScoreRequest(image=image) for image in images])
    refused, *scored = stub.ScoreBatch(batch).results
    assert unpacked(refused.error)["ErrorInfo"].reason == "too_complex"
    assert [result.response.score for result in scored] == [0.5, 0.25]
    assert len(deployment.seen) == 2


def test_what_is_not_large_is_left_to_the_replica(
    stub: scorer_pb2_grpc.AestheticScorerStub, deployment: FakeDeployment
) -> None:
    small = png(100, 100)
    assert in_the_replica(small).reason == "too_complex"
    with pytest.raises(grpc.RpcError):
        stub.Score(scorer_pb2.ScoreRequest(image=small))
    assert [request.image for request in deployment.seen] == [small]


class TestTurns:
    def test_one_at_a_time_for_each_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(large_images, "_PACE", 1)  # none is done in the time of this test

        async def main() -> None:
            large = LargeImages(LIMITS, 2)
            for _ in range(2):
                await asyncio.wait_for(large.wait(SCORED, "a", monotonic() + 60), 5)
            with pytest.raises(Refused) as error:
                await large.wait(SCORED, "a", monotonic() + 0.05)
            assert error.value.refusal == TIME_OVER
            await asyncio.wait_for(large.wait(SCORED[-LARGE:], "a", monotonic() + 60), 5)
            large.close()

        asyncio.run(main())

    def test_callers_take_turns(self) -> None:
        async def main() -> list[str]:
            large, order = LargeImages(LIMITS, 1), list[str]()

            async def one(caller: str) -> None:
                await large.wait(SCORED, caller, monotonic() + 60)
                order.append(caller)

            await asyncio.gather(*(one(caller) for caller in "aaaab"))
            large.close()
            return order

        assert asyncio.run(main()) == list("aabaa")

    def test_they_come_later_while_others_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(large_images, "_ASKS_S", 600.0)
        # One takes half a second of the pace's time: half of it before, half of it behind.
        monkeypatch.setattr(large_images, "_COST_S", 2.0 / len(SCORED))
        monkeypatch.setattr(large_images, "_SHARE", 4.0 / len(os.sched_getaffinity(0)))

        async def main() -> list[float]:
            large, came = LargeImages(LIMITS, 1), [monotonic()]
            await large.wait(b"small", "b", monotonic() + 60)
            for _ in range(2):
                await large.wait(SCORED, "a", monotonic() + 60)
                came.append(monotonic())
            large.close()
            return list(np.diff(came))

        first, second = asyncio.run(main())
        assert first >= 0.24
        assert second >= 0.49

    def test_a_caller_alone_does_not_wait_for_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(large_images, "_SHARE", 1e-12)  # beside others none is passed on in the time of this test

        async def main() -> None:
            large = LargeImages(LIMITS, 1)
            for image in (b"small", SCORED, SCORED):
                await large.wait(image, "a", monotonic() + 60)
            large.close()

        asyncio.run(main())

    def test_a_wait_ends_with_its_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(large_images, "_ASKS_S", 600.0)
        monkeypatch.setattr(large_images, "_SHARE", 1e-12)  # beside others none is passed on in the time of this test

        async def main() -> None:
            large = LargeImages(LIMITS, 1)
            await large.wait(b"small", "b", monotonic() + 60)
            with pytest.raises(Refused) as error:
                await large.wait(SCORED, "a", monotonic() + 0.1)
            assert error.value.refusal == TIME_OVER
            large.close()

        asyncio.run(main())

    def test_a_refused_one_makes_room_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(large_images, "_PACE", 1)

        async def main() -> None:
            large = LargeImages(LIMITS, 1)
            with pytest.raises(Refused):
                await large.wait(REFUSED["too_complex"], "a", monotonic() + 60)
            await asyncio.wait_for(large.wait(SCORED, "a", monotonic() + 60), 5)
            large.close()

        asyncio.run(main())

    def test_the_loop_does_not_look_through_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = []
        monkeypatch.setattr(large_images, "check_structure", lambda *_: names.append(threading.current_thread().name))

        async def main() -> None:
            large = LargeImages(LIMITS, 1)
            await large.wait(SCORED, "a", monotonic() + 60)
            large.close()

        asyncio.run(main())
        assert names == ["structure_0"]
