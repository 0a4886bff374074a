"""The typed rows that cross every boundary.

Frozen dataclasses of NumPy arrays, bytes and plain values; never torch tensors or PIL images, so
that every process can unpickle them without torch and Ray can map the arrays without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]

#: The paper's five dimensions of an aesthetic critique (its Table 5), in the order in which
#: critiques name them.
DIMENSIONS: tuple[str, ...] = ("light and shadow", "mood and narrative", "composition", "color", "exposure")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with its human score.

    `score` and `std` are on the normalised scale [0, 1]; `native_score` is on `native_range`.
    Exactly one of `path` and `data` (encoded bytes) is set. `votes[i]` is the count of raters who
    gave the i-th value of the scale.
    """

    uid: str
    dataset: str
    split: Split
    score: float
    native_score: float
    native_range: tuple[float, float]
    path: Path | None = None
    data: bytes | None = None
    std: float | None = None
    votes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Critique:
    """What a teacher wrote about an image. `text` is the rationale without tags and without the
    score."""

    uid: str
    text: str
    teacher: str
    levels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's decision on one critique; `reason` is None where it is kept, else leak, misaligned
    or factual."""

    uid: str
    keep: bool
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """K completions for one image. Atomic: used whole or refilled whole.

    `token_ids[k]` (int32) and `logprobs[k]` (float32) have the length of completion k, the stop
    token included; the log-probs are those of the sampler, after temperature and token mask.
    `weight_version` is that of the oldest token; `token_versions[k]` (int32) has each token's, None
    where all are from `weight_version`.
    """

    uid: str
    image_uid: str
    dataset: str
    target: float
    step: int
    weight_version: int
    prompt_tokens: int
    token_ids: tuple[NDArray[np.int32], ...]
    logprobs: tuple[NDArray[np.float32], ...]
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    target_std: float | None = None
    token_versions: tuple[NDArray[np.int32], ...] | None = None


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with what the reward actor made of it; arrays are `(K,)`, `scores` holds NaN where
    invalid."""

    group: Group
    scores: NDArray[np.float64]
    rewards: NDArray[np.float64]
    advantages: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies inside the chunks of a weight version (`place` in `chunk`), and what it
    must hash to."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk: int
    place: int
    nbytes: int
    checksum: str


#: One chunk of a weight version: the bytes of its tensors, an array for each, in the manifest's
#: order.
Chunk = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """An immutable weight version: every tensor with its shape, dtype, place and checksum
    (xxh3-128)."""

    version: int
    tensors: tuple[TensorSpec, ...]
    chunks: int

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer for one image. `score` is None where the completion was invalid, with the
    `reason`."""

    uid: str
    dataset: str
    target: float | None
    score: float | None
    text: str
    reason: str | None = None
    readout: str = "greedy"
    weight_version: int | None = None
