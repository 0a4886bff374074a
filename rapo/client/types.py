"""What a client gets back: frozen, typed results, made from the service's messages; and the
requests, made from options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rapo.client.errors import CallError, from_status
from rapo.errors import ConfigError, ImageError, RapoError
from rapo.v1 import scorer_pb2

#: An image to score: encoded bytes, or the path of a file that is read here and sent as bytes.
Image = bytes | str | os.PathLike[str]

#: Names of the readouts, as `readout` takes them and as results give them.
READOUTS: tuple[str, ...] = tuple(
    value.name.removeprefix("READOUT_").lower() for value in scorer_pb2.Readout.DESCRIPTOR.values if value.number
)

# What a message holds beside the image: ids, names and framing.
_MESSAGE_OVERHEAD = 4096


class ScoreOptions(TypedDict, total=False):
    """What may be asked for with each image. All are optional; the server's defaults hold where one
    is left out.

    `readout`: one of `READOUTS`. `rationale`: False leaves the text out. `native_scale`: a name in
    `ModelInfo.native_scales`. `dimensions`: adds what the rationale says of each dimension.
    `samples`: answers for the readout `sampled`. `model_version`: one of `ModelInfo.models`.
    """

    readout: str
    rationale: bool
    native_scale: str
    dimensions: bool
    samples: int
    model_version: str


@dataclass(frozen=True, slots=True)
class Interval:
    """From the 5th to the 95th percentile of the model's answers."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Dimension:
    """The part of a rationale that speaks of one aesthetic dimension."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One answer. `score` lies in [0, 1]; times are the server's, in milliseconds.

    `std` and `interval` are the model's own uncertainty, None with the readout `greedy`.
    `native_score` and `dimensions` are filled where asked for. `cached` says that the server had
    the answer already.
    """

    score: float
    rationale: str
    model_version: str
    readout: str
    request_id: str
    std: float | None
    interval: Interval | None
    native_score: float | None
    dimensions: tuple[Dimension, ...]
    cached: bool
    decode_ms: float
    queue_ms: float
    generate_ms: float
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image of many: exactly one of `result` and `error` is set.

    `index` is the image's place in what was given, from 0; `image` is what was given.
    """

    index: int
    image: Image
    result: ScoreResult | None = None
    error: RapoError | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images in order. `order` is best first, images without a score last, with their error.

    `preference[i][j]` is the probability that image i is preferred to image j, in the order of the
    request; NaN where either has no score.
    """

    order: tuple[Outcome, ...]
    preference: tuple[tuple[float, ...], ...]
    model_version: str
    readout: str
    request_id: str


@dataclass(frozen=True, slots=True)
class NativeScale:
    """The scale of a data set's own scores, from `min` to `max`."""

    name: str
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model answers, and what it takes. The first of `readouts` is the default, as is the
    first of `models`.

    A limit of 0 means that the server names none. Sizes are in bytes; `max_image_pixels` is width
    times height.
    """

    model_version: str
    readouts: tuple[str, ...]
    score_range: tuple[float, float]
    max_image_bytes: int
    max_image_pixels: int
    min_image_side: int
    max_completion_tokens: int
    native_scales: tuple[NativeScale, ...]
    models: tuple[str, ...]
    max_batch: int
    max_stream_in_flight: int
    max_message_bytes: int
    max_samples: int


def read_image(image: Image) -> bytes:
    """The encoded bytes; `ImageError` (reason unreadable) where a path cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        words = error.strerror if isinstance(error, OSError) else None
        raise ImageError(f"cannot read {os.fspath(image)}: {words or error}", reason="unreadable") from error


def readout_number(name: str | None) -> scorer_pb2.Readout:
    """The message's value for a readout's name; None is the server's default. Raises `ConfigError`
    for an unknown one."""
    if name is None:
        return scorer_pb2.READOUT_UNSPECIFIED
    if name not in READOUTS:
        raise ConfigError(f"readout {name!r} is not known; choose one of {', '.join(READOUTS)}")
    return scorer_pb2.Readout.Value(f"READOUT_{name.upper()}")


def readout_name(number: int) -> str:
    """A readout's name. A newer server may know readouts that this client does not: those have a
    number in place of one."""
    names = scorer_pb2.Readout.DESCRIPTOR.values_by_number
    return names[number].name.removeprefix("READOUT_").lower() if number in names else f"readout-{number}"


def score_request(
    data: bytes,
    request_id: str,
    *,
    readout: str | None = None,
    rationale: bool = True,
    native_scale: str = "",
    dimensions: bool = False,
    samples: int = 0,
    model_version: str = "",
) -> scorer_pb2.ScoreRequest:
    """The message for one image with `ScoreOptions`."""
    return scorer_pb2.ScoreRequest(
        image=data,
        request_id=request_id,
        omit_rationale=not rationale,
        readout=readout_number(readout),
        native_scale=native_scale,
        with_dimensions=dimensions,
        samples=samples,
        model_version=model_version,
    )


def check_message_size(data: bytes, image: Image, limits: ModelInfo) -> None:
    """Raise `ImageError` for an image that no message to this service can hold: gRPC would break a
    whole stream over it."""
    room = limits.max_message_bytes - _MESSAGE_OVERHEAD
    if limits.max_message_bytes and len(data) > room:
        name = "the image" if isinstance(image, bytes) else os.fspath(image)
        raise ImageError(f"{name} has {len(data):,} bytes; the service takes {room:,} at most", reason="too_many_bytes")


def rank_request(
    images: Sequence[Image], request_id: str, readout: str | None, model_version: str
) -> scorer_pb2.RankRequest:
    """The message for a ranking."""
    return scorer_pb2.RankRequest(
        images=[read_image(image) for image in images],
        readout=readout_number(readout),
        model_version=model_version,
        request_id=request_id,
    )


def batch_request(
    images: Sequence[Image], request_id: str, options: ScoreOptions
) -> tuple[dict[int, Outcome], scorer_pb2.ScoreBatchRequest]:
    """The message for a batch, and the outcomes, by index, of the images that cannot be read."""
    outcomes: dict[int, Outcome] = {}
    requests = []
    for index, image in enumerate(images):
        try:
            requests.append(score_request(read_image(image), f"{request_id}-{index}", **options))
        except ImageError as error:
            outcomes[index] = outcome(index, image, error)
    return outcomes, scorer_pb2.ScoreBatchRequest(requests=requests)


def batch_results(
    outcomes: dict[int, Outcome],
    images: Sequence[Image],
    request: scorer_pb2.ScoreBatchRequest,
    reply: scorer_pb2.ScoreBatchResponse,
) -> dict[str, CallError]:
    """Put the results of a batch into `outcomes`; the errors, by request id, that the service says
    will pass.

    Raises `CallError` where the reply does not fit the request.
    """
    if len(reply.results) != len(request.requests):
        raise CallError(f"the service answered {len(reply.results)} images of {len(request.requests)}", code="INTERNAL")
    passing: dict[str, CallError] = {}
    for asked, item in zip(request.requests, reply.results, strict=True):
        index = int(asked.request_id.rpartition("-")[2])
        result = result_or_error(item)
        outcomes[index] = outcome(index, images[index], result)
        if isinstance(result, CallError) and result.retry_delay is not None:
            passing[asked.request_id] = result
    return passing


def score_result(reply: scorer_pb2.ScoreResponse) -> ScoreResult:
    """The typed result of a message."""
    return ScoreResult(
        score=reply.score,
        rationale=reply.rationale,
        model_version=reply.model_version,
        readout=readout_name(reply.readout),
        request_id=reply.request_id,
        std=reply.std if reply.HasField("std") else None,
        interval=Interval(reply.interval.low, reply.interval.high) if reply.HasField("interval") else None,
        native_score=reply.native_score if reply.HasField("native_score") else None,
        dimensions=tuple(Dimension(item.name, item.text) for item in reply.dimensions),
        cached=reply.cached,
        decode_ms=reply.timings.decode_ms,
        queue_ms=reply.timings.queue_ms,
        generate_ms=reply.timings.generate_ms,
        completion_tokens=reply.timings.completion_tokens,
    )


def result_or_error(item: scorer_pb2.ScoreResult | scorer_pb2.RankedImage) -> ScoreResult | CallError:
    """What became of one image of many."""
    kind = item.WhichOneof("outcome")
    request_id = item.request_id if isinstance(item, scorer_pb2.ScoreResult) else ""
    if kind == "response":
        return score_result(item.response)
    if kind == "error":
        return from_status(item.error, request_id)
    return CallError(
        "the service sent a result with neither a score nor an error", code="INTERNAL", request_id=request_id
    )


def outcome(index: int, image: Image, result: ScoreResult | RapoError) -> Outcome:
    """An `Outcome` with its result or its error."""
    if isinstance(result, ScoreResult):
        return Outcome(index, image, result=result)
    return Outcome(index, image, error=result)


def ranking(reply: scorer_pb2.RankResponse, images: Sequence[Image]) -> Ranking:
    """The typed ranking of `images`. Raises `CallError` where the reply does not fit them."""
    n = len(images)
    if sorted(item.index for item in reply.ranking) != list(range(n)) or len(reply.preference) != n * n:
        raise CallError(
            f"the service ranked {len(reply.ranking)} images of {n}", code="INTERNAL", request_id=reply.request_id
        )
    flat = tuple(reply.preference)
    return Ranking(
        order=tuple(outcome(item.index, images[item.index], result_or_error(item)) for item in reply.ranking),
        preference=tuple(flat[row * n : (row + 1) * n] for row in range(n)),
        model_version=reply.model_version,
        readout=readout_name(reply.readout),
        request_id=reply.request_id,
    )


def model_info(reply: scorer_pb2.GetModelResponse) -> ModelInfo:
    """The typed description of a model."""
    return ModelInfo(
        model_version=reply.model_version,
        readouts=tuple(readout_name(number) for number in reply.readouts),
        score_range=(reply.min_score, reply.max_score),
        max_image_bytes=reply.max_image_bytes,
        max_image_pixels=reply.max_image_pixels,
        min_image_side=reply.min_image_side,
        max_completion_tokens=reply.max_completion_tokens,
        native_scales=tuple(NativeScale(scale.name, scale.min, scale.max) for scale in reply.native_scales),
        models=tuple(reply.models),
        max_batch=reply.limits.max_batch,
        max_stream_in_flight=reply.limits.max_stream_in_flight,
        max_message_bytes=reply.limits.max_message_bytes,
        max_samples=reply.limits.max_samples,
    )
