"""Engine types: requests and results of the engines, as plain data without torch or vLLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapo.answers.readout import AnswerTree


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How completions are sampled.

    Completion k of a request is sampled with the request's seed plus k. `temperature` 0 is greedy
    and allows one completion only. With `ignore_stop` every completion has exactly `max_tokens`
    tokens, for benchmarks. `symbols` asks for the log-probs of the tokens that answers are written
    with (`AnswerTokens.read`) at each token. Raises `ValueError` for values that contradict each
    other.
    """

    completions: int
    temperature: float
    max_tokens: int
    logprobs: bool = True
    ignore_stop: bool = False
    symbols: bool = False

    def __post_init__(self) -> None:
        if self.completions < 1:
            raise ValueError(f"completions must be at least 1, not {self.completions}")
        if self.completions > 1 and self.temperature == 0:
            raise ValueError(f"{self.completions} greedy completions would all be the same; request one")


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, arrays `(tokens,)`.

    `token_ids` include the stop token. `logprobs` are the sampler's, None where they were not
    requested. `finish_reason` is "stop" or "length". `versions` holds the weight version that each
    token was sampled from. `symbols` float32 `(tokens, 12)` or `(tokens, 112)` are the log-probs of
    `AnswerTokens.read` before each token, None where they were not requested.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None
    finish_reason: str
    versions: NDArray[np.int32]
    symbols: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ReadoutRequest:
    """A readout of one image.

    With `tree` (the readouts expected and fast) the result holds the tree of answers; without, it
    holds the completions of `sampling`. `rationale` False starts from an empty rationale (fast).
    With `force` a rationale that ran off its form, or its token limit, is closed, and the tree is
    read after it.
    `on_tokens` receives the token ids of a greedy rationale and answer step by step; it is called
    in the engine's thread.
    """

    sampling: SamplingSpec
    tree: bool = False
    rationale: bool = True
    force: bool = False
    on_tokens: Callable[[list[int]], None] | None = None


@dataclass(frozen=True, slots=True)
class ReadoutResult:
    """The model's answer about one image.

    `completions` are complete, except that with a tree there is one, which may end with the tag
    that opens the answer, and none without a rationale. `tree` is None where none was requested,
    and where the model began no answer and none was forced. `closed` is the rationale after which
    an answer was forced, None where none was.
    `nodes` counts the requests that the tree took beside the answer's own. `waited_s` is the time
    until the engine first ran the request, `worked_s` the time from there to its end.
    """

    completions: tuple[Completion, ...]
    tree: AnswerTree | None
    nodes: int
    waited_s: float
    worked_s: float
    closed: str | None = None

    @property
    def forced(self) -> bool:
        """Whether the answer was read after a rationale that was closed for it."""
        return self.closed is not None


@dataclass(frozen=True, slots=True)
class TreeQuery:
    """A tree of answers after the first `length` tokens of the core's running request `name`,
    prompt included, the last of which is `last_token`. The engine has computed all but the last of
    them, at least."""

    name: str
    length: int
    last_token: int
