"""Stage results: what each stage notes in its `done.json`, for later stages and the report.

The fields `images` and `model` are digests of what the stage read
(`cluster.pipeline.inputs`); empty where it read none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataResult:
    counts: dict[str, int]
    skipped: int
    images: str = ""


@dataclass(frozen=True, slots=True)
class AesCoTResult:
    generated: int
    kept: int


@dataclass(frozen=True, slots=True)
class ColdStartResult:
    examples: int
    workers: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class RapoResult:
    """`model` is the folder of the selected model, `step` the step that it comes from; `steps` were
    done. `validation` has a result for each validation, `idle` the share of time by side."""

    model: str
    step: int
    steps: int
    validation: list[dict[str, object]]
    idle: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """Empty: the results are files of their own."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    version: str


@dataclass(frozen=True, slots=True)
class ServeResult:
    """`images` were asked for over gRPC; see `ServedFacts`."""

    images: int
    failed: int
    scoring_seconds: float | None
    max_abs_difference: float | None
