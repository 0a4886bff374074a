"""Records: the typed rows that cross the boundaries of processes.

They are frozen dataclasses of NumPy arrays, bytes and plain values, never of torch tensors or PIL
images: every process can unpickle them without torch, and Ray maps the arrays without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rapo.errors import WeightError

Split = Literal["train", "validation", "test"]

#: The five dimensions of an aesthetic critique (Aes-R1, arXiv 2509.21871, Table 5), in the order of
#: the critiques.
DIMENSIONS: tuple[str, ...] = ("light and shadow", "mood and narrative", "composition", "color", "exposure")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with its human score.

    `score` and `std` are on the normalised scale [0, 1]; `native_score` is on `native_range`.
    Exactly one of `path` and `data` (encoded bytes) is set. `votes[i]` counts the votes for the
    i-th value of the scale. `attributes` are the image's true values in [0, 1], in the order of
    `DIMENSIONS`, where the data set knows them. They are for measuring explanations, never for
    training.
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
    attributes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Critique:
    """A teacher's critique of an image. `text` is the rationale, without tags and without the
    score."""

    uid: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's decision on one critique. `reason` is leak, misaligned or factual, or None where
    the critique is kept; `detail` quotes the fault."""

    uid: str
    keep: bool
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AnswerNodes:
    """A sampled answer of two decimals and the sampler's log-probs along its path through the tree
    of answers.

    `start` is the index of its first token in the completion, `text` its four characters, and
    `logprobs` `(4, 12)` holds those of `rapo.answers.readout.SYMBOLS` before each of them. Where
    the decimals are one token it is `(3, 112)`, of `SYMBOLS` and `PAIRS`.
    """

    start: int
    text: str
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Group:
    """K completions of one image. A group is atomic: it is used whole or sampled again whole.

    `token_ids[k]` and `logprobs[k]` have the length of completion k, the stop token included. The
    log-probs are the sampler's, after temperature and token mask. `weight_version` is that of the
    oldest token. `token_versions[k]` holds each token's version; it is None where all are
    `weight_version`. `target` and `target_std` are the human score and its spread in [0, 1].
    `answers[k]` is None where completion k has no answer of two decimals; `answers` is None where
    the run does not use them. `measured` `(5,)` are the image's measures in the order of
    `DIMENSIONS`, None where the reward does not ask for them.
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
    answers: tuple[AnswerNodes | None, ...] | None = None
    measured: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with its scores (NaN where invalid), rewards and advantages, arrays `(K,)`.

    A score is that of the sampled answer, or the expected answer (`rapo.reward.score`).
    """

    group: Group
    scores: NDArray[np.float64]
    rewards: NDArray[np.float64]
    advantages: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The place of one tensor in the chunks of a weight version (`place` in `chunk`), and the
    checksum of its bytes."""

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
    (xxh3-128), and the number of chunks."""

    version: int
    tensors: tuple[TensorSpec, ...]
    chunks: int

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @classmethod
    def joined(cls, parts: Sequence[WeightManifest]) -> WeightManifest:
        """The manifest of a version from those of its parts, whose chunks follow each other. Raises
        `WeightError` where the parts are of several versions, or have a tensor twice."""
        tensors: list[TensorSpec] = []
        chunks = 0
        for part in parts:
            tensors += (replace(spec, chunk=chunks + spec.chunk) for spec in part.tensors)
            chunks += part.chunks
        versions = {part.version for part in parts}
        if len(versions) != 1 or len({spec.name for spec in tensors}) < len(tensors):
            raise WeightError(f"the parts of weight version {sorted(versions)} do not make one version")
        return cls(versions.pop(), tuple(tensors), chunks)


#: The most ranks that send a version. NCCL holds buffers on a worker's GPU for each of them.
MAX_SENDERS = 4


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the senders of a weight version and its receivers meet: the address and port of a
    store, the epoch of their connections, and the number of members. Senders, each of which has a
    share of every version, come first; member 0 hosts the store."""

    address: str
    port: int
    epoch: int
    size: int
    senders: int = 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's score of one image in [0, 1]; None where the completion is invalid, with the
    `reason`.

    `readout` says how the score was taken from the model, `text` is the completion behind it. `std`
    is the model's own uncertainty, None where the readout has none. `forced`: see
    `rapo.inference.reading`.
    """

    uid: str
    dataset: str
    target: float | None
    score: float | None
    text: str
    reason: str | None = None
    readout: str = "greedy"
    weight_version: int | None = None
    std: float | None = None
    forced: bool = False
