"""Messages: requests made from images and options, and results read from replies.

- Nothing here talks to a server.
- A reply that does not fit its request raises `CallError`; it is never filled up or cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rapo.client.errors import CallError, from_status
from rapo.client.images import check_images, read_image
from rapo.client.types import (
    CalibratedInterval,
    Dimension,
    Image,
    Interval,
    IntervalCalibration,
    ModelInfo,
    NativeScale,
    Outcome,
    Ranking,
    ScoreResult,
)
from rapo.errors import ConfigError, ImageError, RapoError
from rapo.v1 import scorer_pb2
from rapo.wire import READOUT_NAMES, READOUT_NUMBERS

# What a message holds beside the image: ids, names and framing.
_MESSAGE_OVERHEAD = 4096


def load_image(image: Image, limits: ModelInfo) -> bytes | ImageError:
    """The encoded bytes, or the reason why the image cannot be sent.

    An image that fits into no message of this service is such an error: gRPC would break a whole
    stream over it.
    """
    try:
        return read_image(image, max(limits.max_message_bytes - _MESSAGE_OVERHEAD, 0))
    except ImageError as error:
        return error


def readout_number(name: str | None) -> scorer_pb2.Readout:
    """The message's value for a readout's name; None is the server's default. Raises `ConfigError`
    for an unknown one."""
    if name is None:
        return scorer_pb2.READOUT_UNSPECIFIED
    if name not in READOUT_NUMBERS:
        raise ConfigError(f"readout {name!r} is not known; choose one of {', '.join(READOUT_NUMBERS)}")
    return READOUT_NUMBERS[name]


def readout_name(number: int) -> str:
    """A readout's name. A readout of a newer server, unknown to this client, is named by its
    number."""
    return READOUT_NAMES.get(number, f"readout-{number}")


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
    """The request for one image with `ScoreOptions`."""
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


@dataclass(frozen=True, slots=True)
class RankJob:
    """The request for a ranking of `images`. In the place of an image that cannot be sent it has no
    bytes, so that the service ranks it last; `unsent` says why."""

    images: Sequence[Image]
    request: scorer_pb2.RankRequest
    unsent: Mapping[int, ImageError]


def rank_job(images: Sequence[Image], request_id: str, readout: str | None, model_version: str) -> RankJob:
    """The request for a ranking."""
    check_images(images, "rank()")
    images = tuple(images)
    loaded: list[bytes] = []
    unsent: dict[int, ImageError] = {}
    for index, image in enumerate(images):
        try:
            loaded.append(read_image(image))
        except ImageError as error:
            loaded.append(b"")
            unsent[index] = error
    request = scorer_pb2.RankRequest(
        images=loaded, readout=readout_number(readout), model_version=model_version, request_id=request_id
    )
    return RankJob(images, request, unsent)


def score_result(reply: scorer_pb2.ScoreResponse) -> ScoreResult:
    """The typed result of a reply."""
    return ScoreResult(
        score=reply.score,
        rationale=reply.rationale,
        model_version=reply.model_version,
        readout=readout_name(reply.readout),
        request_id=reply.request_id,
        std=reply.std if reply.HasField("std") else None,
        interval=_calibrated(reply.interval) if reply.HasField("interval") else None,
        model_interval=Interval(reply.model_interval.low, reply.model_interval.high)
        if reply.HasField("model_interval")
        else None,
        native_score=reply.native_score if reply.HasField("native_score") else None,
        dimensions=tuple(Dimension(item.name, item.text) for item in reply.dimensions),
        cached=reply.cached,
        forced=reply.forced,
        decode_ms=reply.timings.decode_ms,
        queue_ms=reply.timings.queue_ms,
        generate_ms=reply.timings.generate_ms,
        completion_tokens=reply.timings.completion_tokens,
    )


def explained(part: scorer_pb2.ExplainResponse) -> str | ScoreResult:
    """A piece of the rationale, or the result that ends an explanation."""
    return score_result(part.response) if part.WhichOneof("part") == "response" else part.rationale_delta


def result_or_error(item: scorer_pb2.ScoreResult | scorer_pb2.RankedImage) -> ScoreResult | CallError:
    """The result or the error of one image of many."""
    kind = item.WhichOneof("outcome")
    request_id = item.request_id if isinstance(item, scorer_pb2.ScoreResult) else ""
    if kind == "response":
        return score_result(item.response)
    if kind == "error":
        return from_status(item.error, request_id)
    words = "the service sent a result with neither a score nor an error"
    return CallError(words, code="INTERNAL", request_id=request_id)


def outcome(index: int, image: Image, result: ScoreResult | RapoError) -> Outcome:
    """An `Outcome` with its result or its error."""
    if isinstance(result, ScoreResult):
        return Outcome(index, image, result=result)
    return Outcome(index, image, error=result)


def ranking(reply: scorer_pb2.RankResponse, job: RankJob) -> Ranking:
    """The typed ranking of the job's images. Raises `CallError` if the reply does not fit them."""
    n = len(job.images)
    if sorted(item.index for item in reply.ranking) != list(range(n)) or len(reply.preference) != n * n:
        raise CallError(
            f"the service ranked {len(reply.ranking)} images of {n}", code="INTERNAL", request_id=reply.request_id
        )
    flat = tuple(reply.preference)
    return Ranking(
        order=tuple(
            outcome(item.index, job.images[item.index], job.unsent.get(item.index) or result_or_error(item))
            for item in reply.ranking
        ),
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
        interval=IntervalCalibration(
            reply.interval.coverage, readout_name(reply.interval.readout), reply.interval.images
        )
        if reply.HasField("interval")
        else None,
    )


def _calibrated(interval: scorer_pb2.CalibratedInterval) -> CalibratedInterval:
    return CalibratedInterval(interval.low, interval.high, interval.coverage)
