"""Decoder: images are decoded in a process that can be stopped, and that the kernel limits."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rapo.config import ImageConfig
from rapo.errors import ImageError, RoleError
from rapo.images import decoder as decoding
from rapo.images import decoder_process
from rapo.images.decode import decode_image
from rapo.images.decoder import DecodeJob, Decoder, DecoderHost, DecoderLimits, DecodeStopped, PatientDecoder

LIMITS = DecoderLimits(cpu_s=5, memory=256 * 2**20, wait_s=60.0, images=100)


def encode(size: tuple[int, int], format: str = "PNG", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, format, **options)
    return out.getvalue()


def slow_bmp() -> bytes:
    """A run-length BMP that the structure check lets by and that takes long: seconds in Python."""
    side, code = 3000, b"\x01\x05" * (2 * 2**20 - 1)
    head = b"BM" + (1078 + len(code)).to_bytes(4, "little") + bytes(4) + (1078).to_bytes(4, "little")
    info = b"".join(n.to_bytes(4, "little") for n in (40, side, side, 1 | 8 << 16, 1, len(code), 0, 0, 256, 0))
    return head + info + bytes(1024) + code


@pytest.fixture(scope="module")
def host() -> Iterator[DecoderHost]:
    host = DecoderHost(ImageConfig())
    yield host
    host.close()


@pytest.fixture
def decoder(host: DecoderHost) -> Iterator[Decoder]:
    decoder = Decoder(host, LIMITS)
    yield decoder
    decoder.close()


def process_of(decoder: Decoder) -> int:
    assert decoder._process is not None
    return decoder._process.id


@pytest.mark.parametrize(("size", "format"), [((16, 20), "PNG"), ((300, 700), "JPEG"), ((40, 40), "WEBP")])
def test_the_pixels_are_those_of_decode_image(decoder: Decoder, size: tuple[int, int], format: str) -> None:
    data = encode(size, format)
    np.testing.assert_array_equal(decoder.decode(DecodeJob(data)), np.asarray(decode_image(data)))


def test_an_image_that_is_refused_has_the_same_words(decoder: Decoder) -> None:
    before = process_of(decoder)
    for data in (b"no image", encode((8, 8)), encode((64, 64), "JPEG")[:-500]):
        with pytest.raises(ImageError) as direct:
            decode_image(data)
        with pytest.raises(ImageError) as caught:
            decoder.decode(DecodeJob(data))
        assert (caught.value.reason, str(caught.value)) == (direct.value.reason, str(direct.value))
    assert process_of(decoder) == before


def test_stopping_ends_the_process_at_once_and_the_next_image_gets_another(decoder: Decoder) -> None:
    job, before = DecodeJob(slow_bmp()), process_of(decoder)
    timer = threading.Timer(0.2, decoder.stop, [job])
    timer.start()
    began = time.monotonic()
    with pytest.raises(DecodeStopped):
        decoder.decode(job)
    assert time.monotonic() - began < 2.0
    assert not Path(f"/proc/{before}").exists()
    assert decoder.decode(DecodeJob(encode((20, 20)))).shape == (20, 20, 3)
    assert process_of(decoder) != before


def test_a_job_that_was_stopped_before_is_not_begun(decoder: Decoder) -> None:
    job, before = DecodeJob(slow_bmp()), process_of(decoder)
    decoder.stop(job)
    with pytest.raises(DecodeStopped):
        decoder.decode(job)
    assert process_of(decoder) == before


def test_stopping_a_job_that_is_done_does_not_touch_the_next(decoder: Decoder) -> None:
    job, before = DecodeJob(encode((20, 20))), process_of(decoder)
    decoder.decode(job)
    decoder.stop(job)
    assert decoder.decode(DecodeJob(encode((20, 20)))).shape == (20, 20, 3)
    assert process_of(decoder) == before


def test_a_job_that_is_stopped_with_its_last_byte_gives_no_pixels(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, receive = DecodeJob(encode((20, 20))), decoding._Process.decode

    def stopped_behind(process: decoding._Process, data: bytes, limits: DecoderLimits) -> NDArray[np.uint8]:
        pixels = receive(process, data, limits)
        decoder.stop(job)
        return pixels

    monkeypatch.setattr(decoding._Process, "decode", stopped_behind)
    with pytest.raises(DecodeStopped):
        decoder.decode(job)
    monkeypatch.undo()
    assert decoder.decode(DecodeJob(encode((20, 20)))).shape == (20, 20, 3)


def test_cpu_time_has_a_limit(host: DecoderHost) -> None:
    limits = DecoderLimits(cpu_s=0, memory=2**28, wait_s=60.0, images=100)
    decoder = Decoder(host, limits)

    def refusal() -> ImageError:
        with pytest.raises(ImageError) as caught:
            decoder.decode(DecodeJob(slow_bmp()))
        return caught.value

    # Each image may take up to the next whole second; one that ends before it is found damaged.
    refusals = (refusal() for _ in range(20))
    assert any(error.reason == "too_complex" and "CPU time" in str(error) for error in refusals)
    assert decoder.decode(DecodeJob(encode((20, 20)))).shape == (20, 20, 3)
    decoder.close()


def test_memory_has_a_limit(host: DecoderHost) -> None:
    decoder = Decoder(host, DecoderLimits(cpu_s=5, memory=2**24, wait_s=60.0, images=100))
    with pytest.raises(ImageError) as caught:
        decoder.decode(DecodeJob(encode((4000, 4000), "JPEG", quality=5)))
    assert caught.value.reason == "too_complex"
    decoder.close()


def test_waiting_has_a_limit(host: DecoderHost) -> None:
    decoder = Decoder(host, DecoderLimits(cpu_s=60, memory=2**28, wait_s=0.2, images=100))
    with pytest.raises(ImageError, match=r"0\.2 s"):
        decoder.decode(DecodeJob(slow_bmp()))
    decoder.close()


def kill(process: int) -> None:
    os.kill(process, 9)


def crash(process: int) -> None:
    os.kill(process, 11)


@pytest.mark.parametrize(("end", "error"), [(kill, RoleError), (crash, ImageError)])
def test_a_decoder_that_dies_costs_one_image(
    decoder: Decoder, end: Callable[[int], None], error: type[Exception]
) -> None:
    timer = threading.Timer(0.2, end, [process_of(decoder)])
    timer.start()
    with pytest.raises(error):
        decoder.decode(DecodeJob(slow_bmp()))
    assert decoder.decode(DecodeJob(encode((20, 20)))).shape == (20, 20, 3)


def test_a_decoder_for_one_image_ends_with_it(host: DecoderHost) -> None:
    decoder = Decoder(host, DecoderLimits(cpu_s=5, memory=2**28, wait_s=60.0, images=1))
    seen = set()
    for data in (encode((20, 20)), b"no image", encode((20, 20))):
        if decoder._process is not None:
            seen.add(process_of(decoder))
        with suppress(ImageError):
            decoder.decode(DecodeJob(data))
        assert decoder._process is None
    assert all(not Path(f"/proc/{process}").exists() for process in seen)
    decoder.close()


def test_the_forking_process_may_die(host: DecoderHost) -> None:
    decoder = Decoder(host, LIMITS)
    assert host._process is not None
    kill(host._process.pid)
    host._process.wait(10)
    decoder._discard()
    assert decoder.decode(DecodeJob(encode((20, 20)))).shape == (20, 20, 3)
    decoder.close()


def test_all_end_with_the_host(tmp_path: Path) -> None:
    host = DecoderHost(ImageConfig())
    processes = [process_of(Decoder(host, LIMITS)) for _ in range(2)]
    assert host._process is not None
    processes.append(host._process.pid)
    host.close()
    assert all(not Path(f"/proc/{process}").exists() for process in processes)


def test_a_decoder_has_no_secrets_and_no_files(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    host = DecoderHost(ImageConfig())
    other = Decoder(host, LIMITS)
    other.decode(DecodeJob(encode((20, 20))))
    folder = Path(f"/proc/{process_of(other)}")
    assert b"secret" not in (folder / "environ").read_bytes()
    assert len(list((folder / "fd").iterdir())) == 4  # standard ones and the socket
    limits = (folder / "limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith(("Max file size", "Max core"))]
    assert "Max file size             0" in limits
    host.close()


def test_a_patient_decoder_takes_idle_time_and_then_presses(host: DecoderHost) -> None:
    data = encode((2000, 2000), "JPEG")
    for patience_s, pressed in ((60.0, False), (0.001, True)):
        decoder = PatientDecoder(host, replace(LIMITS, images=1, nice=10), patience_s)
        idle, pressing = process_of(decoder._idle), process_of(decoder._pressing)
        assert os.sched_getscheduler(pressing) == os.SCHED_OTHER
        limit = time.monotonic() + 120.0  # a process that only has idle time takes long to begin
        while os.sched_getscheduler(idle) != os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, pressing) != 10:
            assert time.monotonic() < limit, "a decoder sets its priority when it begins"
            time.sleep(0.01)
        np.testing.assert_array_equal(decoder.decode(DecodeJob(data)), np.asarray(decode_image(data)))
        assert Path(f"/proc/{pressing}").exists() != pressed
        assert not Path(f"/proc/{idle}").exists()
        decoder.close()


def test_where_idle_time_is_refused_the_highest_niceness_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in some sandboxes."""
    refused = PermissionError("not here")
    monkeypatch.setattr(os, "sched_setscheduler", Mock(side_effect=refused))
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        ours.close()
        decoder_process._be_decoder(theirs, ImageConfig(), 2, decoder_process.IDLE)
    theirs.close()
    process, data = decoding._Process(pid, ours, 2), encode((20, 20))
    np.testing.assert_array_equal(process.decode(data, LIMITS), np.asarray(decode_image(data)))
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    process.close()  # its end of the connection is the decoder's end
    assert os.waitpid(pid, 0)[1] == 0


def test_a_patient_decoder_can_be_stopped_whichever_is_at_work(host: DecoderHost) -> None:
    for patience_s in (60.0, 0.001):
        decoder, job = PatientDecoder(host, LIMITS, patience_s), DecodeJob(slow_bmp())
        timer = threading.Timer(0.3, decoder.stop, [job])
        timer.start()
        with pytest.raises(DecodeStopped):
            decoder.decode(job)
        decoder.close()
