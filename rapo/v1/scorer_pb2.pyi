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
READOUT_UNSPECIFIED: Readout
READOUT_GREEDY: Readout

class ScoreRequest(_message.Message):
    __slots__ = ("image", "request_id", "omit_rationale")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OMIT_RATIONALE_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    request_id: str
    omit_rationale: bool
    def __init__(self, image: _Optional[bytes] = ..., request_id: _Optional[str] = ..., omit_rationale: _Optional[bool] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("score", "rationale", "model_version", "readout", "request_id", "timings")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    score: float
    rationale: str
    model_version: str
    readout: Readout
    request_id: str
    timings: Timings
    def __init__(self, score: _Optional[float] = ..., rationale: _Optional[str] = ..., model_version: _Optional[str] = ..., readout: _Optional[_Union[Readout, str]] = ..., request_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

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

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model_version", "readouts", "min_score", "max_score", "max_image_bytes", "max_image_pixels", "min_image_side", "max_completion_tokens")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    READOUTS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MIN_IMAGE_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    readouts: _containers.RepeatedScalarFieldContainer[Readout]
    min_score: float
    max_score: float
    max_image_bytes: int
    max_image_pixels: int
    min_image_side: int
    max_completion_tokens: int
    def __init__(self, model_version: _Optional[str] = ..., readouts: _Optional[_Iterable[_Union[Readout, str]]] = ..., min_score: _Optional[float] = ..., max_score: _Optional[float] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., min_image_side: _Optional[int] = ..., max_completion_tokens: _Optional[int] = ...) -> None: ...
