"""Fair decoding: callers take turns, light images do not wait for heavy ones, and work ends with
its caller."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scripted_scorer import Context, FakeEngine, ScorerWithoutVllm

from rapo.config import Config, ImageConfig
from rapo.errors import ImageError
from rapo.images.decoder import DecodeJob, Decoder, DecoderLimits, PatientDecoder
from rapo.v1 import scorer_pb2
from services.fair_places import FairPlaces
from services.names import CALLER_KEY
from services.replica.decoding import LIGHT_WORK, FairDecoding, ImageInspector, memory_of
from services.room import Room
from tests.listening import family

T = TypeVar("T")


def png(side: int = 32) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (200, 20, 20)).save(out, "PNG")
    return out.getvalue()


def heavy_webp(width: int = 7000) -> bytes:
    """A second's work in a few kilobytes."""
    out = io.BytesIO()
    Image.new("RGB", (width, 7000), (9, 9, 9)).save(out, "WEBP", quality=0, method=0)
    return out.getvalue()


@pytest.fixture(scope="module")
def heavy() -> bytes:
    return heavy_webp()


class TestPlaces:
    def test_callers_take_turns(self) -> None:
        async def main() -> list[str]:
            places, order = FairPlaces(1), list[str]()

            async def use(caller: str) -> None:
                async with places.place(caller):
                    order.append(caller)
                    await asyncio.sleep(0)

            await asyncio.gather(*(use(caller) for caller in "aaaabbc"))
            return order

        assert asyncio.run(main()) == list("aabcaba")

    def test_the_last_place_is_for_another_caller(self) -> None:
        async def main() -> None:
            places = FairPlaces(3, keep_one=True)
            tasks = [asyncio.create_task(places.take("a")) for _ in range(4)]
            await asyncio.sleep(0)
            assert [task.done() for task in tasks] == [True, True, False, False]
            await asyncio.wait_for(places.take("b"), 1)
            places.give_back("a")
            await asyncio.sleep(0)
            assert not tasks[2].done()  # it would be the last one again
            places.give_back("b")
            await asyncio.sleep(0)
            assert tasks[2].done()
            tasks[3].cancel()

        asyncio.run(main())

    @pytest.mark.parametrize("granted", [False, True])
    def test_a_caller_that_leaves_while_it_waits_holds_nothing(self, granted: bool) -> None:
        async def main() -> None:
            places = FairPlaces(1)
            await places.take("a")
            waiting = asyncio.create_task(places.take("b"))
            await asyncio.sleep(0)
            if granted:
                places.give_back("a")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()
            if not granted:
                places.give_back("a")
            await asyncio.wait_for(places.take("c"), 1)

        asyncio.run(main())


def test_room_is_not_for_one_caller_alone() -> None:
    room = Room(16)
    held = [room.taken("a") for _ in range(14)]
    for place in held:
        place.__enter__()
    assert (room.has("a"), room.has("b"), room.total) == (False, True, 14)
    with room.taken("b"), room.taken("b"):
        assert not room.has("c")
    held[0].__exit__(None, None, None)
    assert room.has("a")


def test_heavy_images_are_known_without_decoding_them(heavy: bytes) -> None:
    inspector = ImageInspector(ImageConfig())
    assert asyncio.run(inspector.inspect(png()))[1] is False
    assert asyncio.run(inspector.inspect(heavy))[1] is True
    inspector.close()


@pytest.fixture
def decoding() -> Iterator[FairDecoding]:
    decoding = FairDecoding(ImageConfig(), 60.0)
    yield decoding
    decoding.close()


def size_of(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    return pixels.shape[:2]


def cpu_seconds(decoding: FairDecoding) -> float:
    """CPU time of the decoders that are there, or were."""
    assert decoding._host._process is not None
    fields = Path(f"/proc/{decoding._host._process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[place]) for place in (11, 12, 13, 14)) / 100  # its own and its children's


def test_a_light_image_does_not_wait_for_heavy_ones(decoding: FairDecoding, heavy: bytes) -> None:
    async def main() -> None:
        attack = [asyncio.create_task(decoding.decode(heavy, "a", size_of, heavy=True)) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert await decoding.decode(png(), "b", size_of, heavy=False) == (32, 32)
        assert not any(task.done() for task in attack)
        for task in attack:
            task.cancel()
        await asyncio.gather(*attack, return_exceptions=True)

    asyncio.run(main())


def test_heavy_images_are_decoded_one_at_a_time_and_yield_to_others(decoding: FairDecoding, heavy: bytes) -> None:
    async def main() -> list[int]:
        attack = [asyncio.create_task(decoding.decode(heavy, caller, size_of, heavy=True)) for caller in "abc"]
        found = []
        while not any(task.done() for task in attack):
            await asyncio.sleep(0.05)
            found.append(yielding())
        for task in attack:
            task.cancel()
        await asyncio.gather(*attack, return_exceptions=True)
        return found

    assert max(asyncio.run(main())) == 1


def yielding() -> int:
    """How many decoders of a lower priority than this process have begun to work."""
    found = 0
    for process in family(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended
            lower = os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)
            ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11]
            found += lower and int(ticks) > 0
    return found


def test_all_decoders_together_stay_within_what_the_docs_say(decoding: FairDecoding) -> None:
    light, heavy = decoding._light._all[0], decoding._heavy._all[0]
    assert isinstance(light, Decoder)
    assert isinstance(heavy, PatientDecoder)
    # The two processes of a patient decoder work one after the other.
    limits = [(decoding._light, light._limits), (decoding._heavy, heavy._pressing._limits)]
    lanes = [(len(lane._all), limit.memory) for lane, limit in limits]
    assert lanes == [(3, memory_of(LIGHT_WORK)), (1, memory_of(ImageConfig().max_pixels))]
    assert [round(memory / 2**20) for _, memory in lanes] == [395, 1082]  # the latter is 1.06 GiB
    assert sum(count * memory for count, memory in lanes) < 2.25 * 2**30


def test_work_ends_with_its_caller(decoding: FairDecoding, heavy: bytes) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(decoding.decode(heavy, "a", size_of, heavy=True), 0.1)
        before = cpu_seconds(decoding)
        await asyncio.sleep(1.0)
        assert cpu_seconds(decoding) - before < 0.3
        assert await decoding.decode(png(), "a", size_of, heavy=True) == (32, 32)

    asyncio.run(main())


def mib(decoding: FairDecoding) -> float:
    """Memory of this process and of all decoders; what they share counts once."""
    total = 0
    for process in family(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def test_memory_returns_after_the_largest_images(decoding: FairDecoding, heavy: bytes) -> None:
    async def main() -> tuple[float, float]:
        await decoding.decode(heavy, "a", size_of, heavy=True)
        before = mib(decoding)
        await asyncio.gather(*(decoding.decode(heavy, caller, size_of, heavy=True) for caller in "ab"))
        return before, mib(decoding)

    before, after = asyncio.run(main())
    assert after - before < 32


def test_no_accepted_image_needs_more_memory_than_its_decoder_may_take(decoding: FairDecoding, heavy: bytes) -> None:
    """WebP needs most for a pixel; without its share the image is refused."""
    pixels = 49_000_000
    assert memory_of(pixels) > 16 * pixels
    decoder = Decoder(decoding._host, DecoderLimits(15, 12 * pixels, 60.0, 1))
    with pytest.raises(ImageError):
        decoder.decode(DecodeJob(heavy))
    decoder = Decoder(decoding._host, DecoderLimits(15, memory_of(pixels), 60.0, 1))
    assert decoder.decode(DecodeJob(heavy)).shape == (7000, 7000, 3)


def test_the_deployment_decodes_in_processes_and_gives_the_caller(decoding: FairDecoding) -> None:
    callers = []

    class Spy:
        async def decode(self, data: bytes, caller: str, then: Callable[[NDArray[np.uint8]], T], *, heavy: bool) -> T:
            callers.append((caller, heavy))
            return await decoding.decode(data, caller, then, heavy=heavy)

        def close(self) -> None: ...

    engine = FakeEngine()
    scorer = ScorerWithoutVllm(engine, Config(), Spy())

    async def main() -> None:
        context = Context()
        context.metadata.append((CALLER_KEY, "web"))
        reply = await scorer.Score(scorer_pb2.ScoreRequest(image=png(40)), context)
        assert reply.score == pytest.approx(0.65)
        await scorer.Score(scorer_pb2.ScoreRequest(image=png(1900)), context)
        refused = Context()
        await scorer.Score(scorer_pb2.ScoreRequest(image=b"no image"), refused)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "unknown_format")

    asyncio.run(main())
    assert callers == [("web", False), ("web", True), ("", False)]
    assert [image.tensors["pixels"].shape for image in engine.encoded_images] == [(40, 40, 3), (1900, 1900, 3)]
