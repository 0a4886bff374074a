"""Client: the blocking and the asynchronous gRPC client of the scorer.

- It needs grpcio and protobuf only.
- What is imported from here is public; the modules below are not.
"""

from rapo.client.aio import AsyncScorerClient
from rapo.client.connection import DEFAULT_TARGET
from rapo.client.errors import CallError, FieldViolation
from rapo.client.sync import ScorerClient
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
    ScoreOptions,
    ScoreResult,
)

__all__ = [
    "DEFAULT_TARGET",
    "AsyncScorerClient",
    "CalibratedInterval",
    "CallError",
    "Dimension",
    "FieldViolation",
    "Image",
    "Interval",
    "IntervalCalibration",
    "ModelInfo",
    "NativeScale",
    "Outcome",
    "Ranking",
    "ScoreOptions",
    "ScoreResult",
    "ScorerClient",
]
