"""Client types: what a client takes and what it returns, as frozen dataclasses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypedDict

from rapo.answers.readout_names import READOUTS as READOUTS
from rapo.errors import RapoError

#: An image to score: encoded bytes, or the path of a file that the client reads and sends as bytes.
Image = bytes | bytearray | memoryview | str | os.PathLike[str]


class ScoreOptions(TypedDict, total=False):
    """What a caller may request with each image. The server's default holds for what is left out.

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
class CalibratedInterval:
    """Where the mean human score lies for a share of at least `coverage` of images like those of
    the calibration."""

    low: float
    high: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Dimension:
    """The part of a rationale that describes one aesthetic dimension."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One answer. `score` lies in [0, 1]; times are the server's, in milliseconds.

    `interval` is calibrated on human scores; None where the model or the readout is not.
    `std` and `model_interval` are the model's own uncertainty, None with the readout `greedy`.
    `native_score` and `dimensions` are filled if they were requested. `cached` says that the server
    had the answer already, `forced` that the model ran off the form of an answer and was held to
    it.
    """

    score: float
    rationale: str
    model_version: str
    readout: str
    request_id: str
    std: float | None
    interval: CalibratedInterval | None
    model_interval: Interval | None
    native_score: float | None
    dimensions: tuple[Dimension, ...]
    cached: bool
    forced: bool
    decode_ms: float
    queue_ms: float
    generate_ms: float
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one image of many: exactly one of `result` and `error` is set.

    `index` is the image's position in the input, from 0; `image` is the input itself.
    """

    index: int
    image: Image
    result: ScoreResult | None = None
    error: RapoError | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images in order. `order` is best first; images without a score come last, with their error.

    `preference[i][j]` is the probability that image i is preferred to image j, with both indices in
    the order of the request. It is NaN if either image has no score.
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
class IntervalCalibration:
    """What calibrated intervals rest on: they hold a share `coverage` of human scores, exist for
    one `readout` only, and come from `images` images."""

    coverage: float
    readout: str
    images: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that answers, and its limits. The first of `readouts` and the first of `models` are
    the defaults. `interval` is None where the model was not calibrated.

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
    interval: IntervalCalibration | None
