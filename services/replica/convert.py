"""Conversion of messages: a ScoreRequest to a ReadoutSpec, and a ScoredImage to a ScoreResponse, as
scorer.proto describes the fields."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from rapo.algorithm.conformal import Calibration
from rapo.answers.dimensions import split_dimensions
from rapo.answers.readout_names import READOUTS
from rapo.config import ServeConfig
from rapo.models.card import Scale
from rapo.v1 import scorer_pb2
from rapo.wire import READOUT_NAMES, READOUT_NUMBERS
from services.replica.image_scorer import ReadoutSpec, ScoredImage
from services.statuses import Refusal, Refused, invalid

_MIN_SAMPLES = 2


def readout_of(
    request: scorer_pb2.ScoreRequest, settings: ServeConfig, version: str, scales: Mapping[str, Scale]
) -> ReadoutSpec:
    """The readout for a request. Raises `Refused`, which names the field, for a request that fails
    with any image."""
    if request.model_version not in ("", version):
        words = f"no model version {request.model_version[:64]!r} is served here"
        raise Refused(Refusal(grpc.StatusCode.NOT_FOUND, words, "unknown_version", "model_version"))
    if request.native_scale and request.native_scale not in scales:
        known = ", ".join(sorted(scales)) or "none"
        raise invalid(
            "native_scale", f"unknown scale {request.native_scale[:64]!r}; this model has: {known}", "unknown_scale"
        )
    unspecified = request.readout == scorer_pb2.READOUT_UNSPECIFIED
    readout = settings.readout if unspecified else READOUT_NAMES.get(request.readout)
    if readout is None:
        raise invalid("readout", f"unknown readout {request.readout}; known: {', '.join(READOUTS)}", "unknown_readout")
    if readout != "sampled":
        if request.samples:
            raise invalid("samples", f"samples must be 0 with the readout {readout}", "unused_samples")
        return ReadoutSpec(readout)
    samples = request.samples or settings.samples
    if not _MIN_SAMPLES <= samples <= settings.max_samples:
        words = f"samples must be {_MIN_SAMPLES} to {settings.max_samples}, not {samples}"
        raise invalid("samples", words, "samples_out_of_range")
    return ReadoutSpec(readout, samples)


def response_of(
    request: scorer_pb2.ScoreRequest,
    scored: ScoredImage,
    spec: ReadoutSpec,
    request_id: str,
    version: str,
    scales: Mapping[str, Scale],
    calibration: Calibration | None,
) -> scorer_pb2.ScoreResponse:
    """The response to a request, with the parts that it requests, and with the calibrated interval
    where the readout is that of the `calibration`."""
    response = scorer_pb2.ScoreResponse(
        score=scored.score,
        rationale="" if request.omit_rationale else scored.rationale,
        model_version=version,
        readout=READOUT_NUMBERS[spec.readout],
        request_id=request_id,
        timings=scorer_pb2.Timings(
            decode_ms=scored.decode_ms,
            queue_ms=scored.queue_ms,
            generate_ms=scored.generate_ms,
            completion_tokens=scored.tokens,
        ),
        std=scored.std,
        cached=scored.cached,
        forced=scored.forced,
    )
    if scored.model_interval is not None:
        low, high = scored.model_interval
        response.model_interval.CopyFrom(scorer_pb2.Interval(low=low, high=high))
    if calibration is not None and calibration.readout == spec.readout:
        low, high = calibration.interval(scored.score)
        response.interval.CopyFrom(scorer_pb2.CalibratedInterval(low=low, high=high, coverage=calibration.coverage))
    if request.native_scale:
        response.native_score = scales[request.native_scale].native(scored.score)
    if request.with_dimensions:
        parts = split_dimensions(scored.rationale)
        response.dimensions.extend(scorer_pb2.Dimension(name=name, text=text) for name, text in parts)
    return response


def calibration_message(calibration: Calibration | None) -> scorer_pb2.IntervalCalibration | None:
    """The calibration as GetModel tells it. A readout that this service does not know is
    unspecified."""
    if calibration is None:
        return None
    return scorer_pb2.IntervalCalibration(
        coverage=calibration.coverage, readout=READOUT_NUMBERS.get(calibration.readout), images=calibration.n
    )
