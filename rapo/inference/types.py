"""What an engine is asked and what it answers. Plain data: neither torch nor vLLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapo.answers.readout import AnswerTree


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How to draw completions. `temperature` 0 is greedy, of which there is one. Sample k of a
    request draws with `seed + k`. With `ignore_stop` every completion has `max_tokens` tokens,
    which benchmarks want. Raises `ValueError`."""

    completions: int
    temperature: float
    max_tokens: int
    logprobs: bool = True
    ignore_stop: bool = False

    def __post_init__(self) -> None:
        if self.completions < 1:
            raise ValueError(f"completions must be at least 1, not {self.completions}")
        if self.completions > 1 and self.temperature == 0:
            raise ValueError(f"{self.completions} greedy completions would all be the same; ask for one")


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion: token ids with the stop token, their log-probs (or None), why it ended (stop
    or length), and the weight version that drew each token."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None
    finish_reason: str
    versions: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """`patches` uint8 `(patches, patch_dim)`, `grid` int64 `(3,)`, `prompt_ids` with one pad per
    feature. Equal keys mean equal images: vLLM's caches go by them."""

    patches: NDArray[np.uint8]
    grid: NDArray[np.int64]
    prompt_ids: list[int]
    key: str


@dataclass(frozen=True, slots=True)
class ReadoutRequest:
    """What is wanted of an image.

    `tree`: the tree of answers, for the readouts expected and fast; else completions drawn by
    `sampling`, which then holds how many. `rationale` false: start from an empty one (fast). `tell`
    gets the token ids of a greedy rationale and answer as they are written, in the engine's thread.
    """

    sampling: SamplingSpec
    tree: bool = False
    rationale: bool = True
    tell: Callable[[list[int]], None] | None = None


@dataclass(frozen=True, slots=True)
class ReadoutResult:
    """What the model said of an image.

    `completions` are whole, except that with a `tree` there is one, which may end with the answer's
    digits. `tree` is None where none was asked for and where the model began no answer; `nodes` is
    the number of its nodes that were requests of their own. `waited_s` and `worked_s`: until the
    engine first ran it, and from there to its end.
    """

    completions: tuple[Completion, ...]
    tree: AnswerTree | None
    nodes: int
    waited_s: float
    worked_s: float
