"""Fuzzing the gateway: a few hundred requests of the long run in `bench/fuzz_gateway.py`, and
free-form ones by hypothesis."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import grpc
import pytest
from fake_scorer import serving
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import details_of, settings_for

from bench.fuzz_gateway import Decoding, Tally, Until, attack
from bench.malformed import LIMITS, METHODS, Case, _clean, cases, make_image, verdict
from bench.support.corpus import Corpus
from bench.support.mutation import mutate, mutate_message
from rapo.config import ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import REASONS, decode_image
from rapo.v1 import scorer_pb2
from rapo.wire import DOMAIN, SERVICE
from services.gateway.server import Gateway

# pytest puts its own warning filters in place of `rapo.images.decode`'.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

MAX_MESSAGE_BYTES = 2 * 2**20
TINY = ImageConfig(max_bytes=100_000, max_pixels=100_000, min_side=1)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with (
        serving(Decoding()) as upstream,
        Gateway(replace(settings_for(upstream), max_message_bytes=MAX_MESSAGE_BYTES)) as gateway,
    ):
        yield gateway


def test_every_malformed_request_gets_the_right_status(gateway: Gateway) -> None:
    tally = Tally()
    asyncio.run(attack(gateway.address, Until(300), seed=3, tally=tally, corpus=Corpus(None, LIMITS)))
    assert tally.wrong == []
    assert tally.done == 300
    assert len(tally.kinds) > 10
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"} <= tally.codes.keys()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(METHODS), st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_any_bytes_are_answered_with_details(gateway: Gateway, method: str, messages: list[bytes]) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{method}")(iter(messages), timeout=10)
        with contextlib.suppress(grpc.RpcError):
            list(call)
        code = call.code()
        # UNIMPLEMENTED: gRPC's own word for several messages where the method takes one.
        own = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        assert code in own | {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}
        assert code not in own or details_of(call)["ErrorInfo"].domain == DOMAIN


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8X", b"BM", b"II*\0", b"MM\0*", b"II+\0", b""]
    ),
    st.binary(max_size=300),
)
def test_any_bytes_are_an_image_or_an_image_error(magic: bytes, body: bytes) -> None:
    image, words, reason = None, "", "missing"
    try:
        image = decode_image(magic + body, TINY)
    except ImageError as error:
        words, reason = str(error), error.reason
    assert reason in REASONS
    assert words.isascii()
    assert words.isprintable()
    assert image is None or (image.mode == "RGB" and image.width * image.height <= TINY.max_pixels)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_damaged_images_are_an_image_or_an_image_error(rng: Random) -> None:
    data = make_image(rng)
    found = verdict(data)
    assert found is True or found in REASONS
    assert verdict(data) == found


def test_cases_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> list[Case]:
        stream = cases(seed, MAX_MESSAGE_BYTES)
        return [next(stream) for _ in range(50)]

    assert first(1) == first(1) != first(2)
    assert ImageConfig() == LIMITS
    assert all(isinstance(message, bytes) for case in first(1) for message in case.messages)


def test_a_wrong_status_would_be_noticed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tally itself: an upstream that accepts what cannot be decoded."""

    def accepting(self: Decoding, request: scorer_pb2.ScoreRequest, context: grpc.ServicerContext) -> object:
        return scorer_pb2.ScoreResponse(score=0.5, model_version="fuzz", request_id=request.request_id)

    monkeypatch.setattr(Decoding, "Score", accepting)
    tally = Tally()
    asyncio.run(attack(gateway.address, Until(200), seed=3, tally=tally))
    assert len(tally.wrong) > 5


def test_mutations_keep_files_and_messages_readable_mostly() -> None:
    """Bytes that are changed anywhere end at the first checksum; these reach the decoders."""
    rng, verdicts = Random(0), []
    for place in range(13):
        clean = _clean(place)
        changed = {mutate(clean, rng) for _ in range(40)}
        assert len(changed) > 20
        verdicts += [verdict(data) for data in changed]
    assert sum(found != "unknown_format" for found in verdicts) > len(verdicts) / 2
    assert sum(found is True for found in verdicts) > len(verdicts) / 20
    message = scorer_pb2.ScoreRequest(image=b"x" * 50, request_id="mine").SerializeToString()
    parsed = 0
    for _ in range(100):
        with contextlib.suppress(DecodeError):
            scorer_pb2.ScoreRequest.FromString(mutate_message(message, rng))
            parsed += 1
    assert 20 < parsed < 100


def test_the_corpus_grows_with_what_is_new_and_stays(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, LIMITS)
    assert corpus.pick(Random(0)) is None
    for _ in range(2):
        assert corpus.verdict(_clean(0)) is True
        assert corpus.verdict(_clean(0)[:200]) == "truncated"
    assert len(corpus.images) == len(list(tmp_path.iterdir())) == 2
    again = Corpus(tmp_path, LIMITS)
    assert sorted(again.images) == sorted(corpus.images)
    assert again.pick(Random(0)) in corpus.images


def test_fuzzing_ends_at_its_time(gateway: Gateway) -> None:
    tally, began = Tally(), time.monotonic()
    asyncio.run(attack(gateway.address, Until(math.inf, began + 1.0), seed=5, tally=tally))
    assert tally.done > 0
    assert time.monotonic() - began < 40
