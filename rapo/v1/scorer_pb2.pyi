from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Readout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    READOUT_UNSPECIFIED: _ClassVar[Readout]
    READOUT_GREEDY: _ClassVar[Readout]
    READOUT_EXPECTED: _ClassVar[Readout]
    READOUT_SAMPLED: _ClassVar[Readout]
    READOUT_FAST: _ClassVar[Readout]
READOUT_UNSPECIFIED: Readout
READOUT_GREEDY: Readout
READOUT_EXPECTED: Readout
READOUT_SAMPLED: Readout
READOUT_FAST: Readout

class ScoreRequest(_message.Message):
    __slots__ = ("image", "request_id", "omit_rationale", "readout", "model_version", "native_scale", "with_dimensions", "samples")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OMIT_RATIONALE_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NATIVE_SCALE_FIELD_NUMBER: _ClassVar[int]
    WITH_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    request_id: str
    omit_rationale: bool
    readout: Readout
    model_version: str
    native_scale: str
    with_dimensions: bool
    samples: int
    def __init__(self, image: _Optional[bytes] = ..., request_id: _Optional[str] = ..., omit_rationale: _Optional[bool] = ..., readout: _Optional[_Union[Readout, str]] = ..., model_version: _Optional[str] = ..., native_scale: _Optional[str] = ..., with_dimensions: _Optional[bool] = ..., samples: _Optional[int] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("score", "rationale", "model_version", "readout", "request_id", "timings", "std", "model_interval", "native_score", "dimensions", "cached", "interval", "forced")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    MODEL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    NATIVE_SCORE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    score: float
    rationale: str
    model_version: str
    readout: Readout
    request_id: str
    timings: Timings
    std: float
    model_interval: Interval
    native_score: float
    dimensions: _containers.RepeatedCompositeFieldContainer[Dimension]
    cached: bool
    interval: CalibratedInterval
    forced: bool
    def __init__(self, score: _Optional[float] = ..., rationale: _Optional[str] = ..., model_version: _Optional[str] = ..., readout: _Optional[_Union[Readout, str]] = ..., request_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., std: _Optional[float] = ..., model_interval: _Optional[_Union[Interval, _Mapping]] = ..., native_score: _Optional[float] = ..., dimensions: _Optional[_Iterable[_Union[Dimension, _Mapping]]] = ..., cached: _Optional[bool] = ..., interval: _Optional[_Union[CalibratedInterval, _Mapping]] = ..., forced: _Optional[bool] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class CalibratedInterval(_message.Message):
    __slots__ = ("low", "high", "coverage")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    coverage: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., coverage: _Optional[float] = ...) -> None: ...

class Dimension(_message.Message):
    __slots__ = ("name", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("decode_ms", "queue_ms", "generate_ms", "completion_tokens")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    queue_ms: float
    generate_ms: float
    completion_tokens: int
    def __init__(self, decode_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., generate_ms: _Optional[float] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class ScoreResult(_message.Message):
    __slots__ = ("request_id", "response", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: ScoreResponse
    error: _status_pb2.Status
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ScoreBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ScoreRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ScoreRequest, _Mapping]]] = ...) -> None: ...

class ScoreBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("images", "readout", "model_version", "request_id")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    readout: Readout
    model_version: str
    request_id: str
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., readout: _Optional[_Union[Readout, str]] = ..., model_version: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("ranking", "preference", "model_version", "readout", "request_id")
    RANKING_FIELD_NUMBER: _ClassVar[int]
    PREFERENCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ranking: _containers.RepeatedCompositeFieldContainer[RankedImage]
    preference: _containers.RepeatedScalarFieldContainer[float]
    model_version: str
    readout: Readout
    request_id: str
    def __init__(self, ranking: _Optional[_Iterable[_Union[RankedImage, _Mapping]]] = ..., preference: _Optional[_Iterable[float]] = ..., model_version: _Optional[str] = ..., readout: _Optional[_Union[Readout, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RankedImage(_message.Message):
    __slots__ = ("index", "response", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    response: ScoreResponse
    error: _status_pb2.Status
    def __init__(self, index: _Optional[int] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("rationale_delta", "response")
    RATIONALE_DELTA_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    rationale_delta: str
    response: ScoreResponse
    def __init__(self, rationale_delta: _Optional[str] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model_version",)
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    def __init__(self, model_version: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model_version", "readouts", "min_score", "max_score", "max_image_bytes", "max_image_pixels", "min_image_side", "max_completion_tokens", "native_scales", "models", "limits", "interval")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    READOUTS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MIN_IMAGE_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NATIVE_SCALES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    readouts: _containers.RepeatedScalarFieldContainer[Readout]
    min_score: float
    max_score: float
    max_image_bytes: int
    max_image_pixels: int
    min_image_side: int
    max_completion_tokens: int
    native_scales: _containers.RepeatedCompositeFieldContainer[NativeScale]
    models: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    interval: IntervalCalibration
    def __init__(self, model_version: _Optional[str] = ..., readouts: _Optional[_Iterable[_Union[Readout, str]]] = ..., min_score: _Optional[float] = ..., max_score: _Optional[float] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., min_image_side: _Optional[int] = ..., max_completion_tokens: _Optional[int] = ..., native_scales: _Optional[_Iterable[_Union[NativeScale, _Mapping]]] = ..., models: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., interval: _Optional[_Union[IntervalCalibration, _Mapping]] = ...) -> None: ...

class IntervalCalibration(_message.Message):
    __slots__ = ("coverage", "readout", "images")
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    coverage: float
    readout: Readout
    images: int
    def __init__(self, coverage: _Optional[float] = ..., readout: _Optional[_Union[Readout, str]] = ..., images: _Optional[int] = ...) -> None: ...

class NativeScale(_message.Message):
    __slots__ = ("name", "min", "max")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    name: str
    min: float
    max: float
    def __init__(self, name: _Optional[str] = ..., min: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_batch", "max_stream_in_flight", "max_message_bytes", "max_samples")
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    max_batch: int
    max_stream_in_flight: int
    max_message_bytes: int
    max_samples: int
    def __init__(self, max_batch: _Optional[int] = ..., max_stream_in_flight: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_samples: _Optional[int] = ...) -> None: ...
