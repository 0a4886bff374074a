"""Reading: the score that a readout holds, for evaluation and service alike.

- A score is never made up: an answer without one raises `NoScore` with the reason.
- `expected` and `fast` take the expectation over the tree of answers. Where the model gives all
  numbers together less probability than `MIN_INSIDE`, that is no score, unless it may be forced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapo.answers.answer_tokens import CLOSE, OPEN
from rapo.answers.parse import Answer, parse_answer
from rapo.answers.readout_names import ReadoutName
from rapo.errors import ServiceError
from rapo.inference.types import Completion, ReadoutRequest, ReadoutResult, SamplingSpec

#: An answer is no score if the model gives all numbers together less probability than this.
MIN_INSIDE = 0.05
_MIN_SAMPLES = 2

Decode = Callable[[NDArray[np.int32]], str]


class NoScore(ServiceError):
    """The model's answer holds no score; `reason` is one of `rapo.answers.parse.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model's answer holds no score ({reason})")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reading:
    """A score with its rationale.

    `std` and `model_interval` (5th to 95th percentile) are the model's own, absent with `greedy`;
    `outside` is as in `rapo.answers.readout`. `forced`: the rationale ran off its form or its limit
    and was closed, or the answer is hardly ever a number; the model was then held to numbers.
    """

    score: float
    rationale: str
    std: float | None = None
    model_interval: tuple[float, float] | None = None
    outside: float | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class ReadoutPlan:
    """How a score is taken: `samples` and `temperature` are of `sampled` alone. `force`: with
    `expected`, a rationale that ran off its form is closed, and the answer read after it."""

    readout: ReadoutName
    max_tokens: int
    samples: int = 0
    temperature: float = 1.0
    force: bool = True

    def request(self, on_tokens: Callable[[list[int]], None] | None = None) -> ReadoutRequest:
        """What to ask of the engine. `on_tokens` is as in `ReadoutRequest`."""
        if self.readout == "sampled":
            return ReadoutRequest(SamplingSpec(self.samples, self.temperature, self.max_tokens, logprobs=False))
        greedy = SamplingSpec(1, 0.0, self.max_tokens, logprobs=False)
        if self.readout == "fast":
            return ReadoutRequest(greedy, tree=True, rationale=False)
        return ReadoutRequest(greedy, tree=self.readout == "expected", force=self.force, on_tokens=on_tokens)

    def read(self, result: ReadoutResult, decode: Decode) -> Reading:
        """The reading of the engine's result. Raises `NoScore`."""
        if self.readout == "sampled":
            return _mean([_parsed(completion, decode) for completion in result.completions])
        if self.readout == "fast":
            return self._expected(result, "")
        if result.closed is not None:
            return self._expected(result, result.closed)
        (completion,) = result.completions
        if self.readout == "greedy":
            answer = _parsed(completion, decode)
            return Reading(_score(answer), answer.rationale)
        return self._expected(result, _rationale(completion, decode))

    def _expected(self, result: ReadoutResult, rationale: str) -> Reading:
        if result.tree is None:
            raise RuntimeError("the engine gave an answer without its tree")
        try:
            expected = result.tree.expectation()
            improbable = expected.outside > 1.0 - MIN_INSIDE
            if improbable and not (self.readout == "expected" and self.force):
                raise NoScore("not_a_number")
            forced = improbable or result.forced
            if forced:
                expected = result.tree.expectation(held=True)
        except NoScore:
            raise
        except ServiceError as error:
            raise NoScore("not_a_number") from error
        interval = expected.low, expected.high
        return Reading(expected.mean, rationale, expected.std, interval, expected.outside, forced)


def _mean(answers: list[Answer]) -> Reading:
    """The mean of sampled answers, with the rationale of the one nearest to it."""
    valid = [answer for answer in answers if answer.score is not None]
    if len(valid) < _MIN_SAMPLES:
        reasons = Counter(answer.reason or "no_answer" for answer in answers if answer.score is None)
        raise NoScore(reasons.most_common(1)[0][0])
    scores = np.array([_score(answer) for answer in valid])
    mean = float(scores.mean())
    nearest = valid[int(np.abs(scores - mean).argmin())]
    low, high = (float(end) for end in np.quantile(scores, (0.05, 0.95)))
    return Reading(mean, nearest.rationale, float(scores.std(ddof=1)), (low, high))


def _parsed(completion: Completion, decode: Decode) -> Answer:
    return parse_answer(decode(completion.token_ids), truncated=completion.finish_reason == "length")


def _rationale(completion: Completion, decode: Decode) -> str:
    """The rationale before an answer that was not waited for. Raises `NoScore` unless the text up
    to the answer has the right form."""
    before, opened, _ = decode(completion.token_ids).partition(OPEN)
    # The number does not matter: only the text before it is used.
    answer = parse_answer(f"{before}{OPEN}0.00{CLOSE}") if opened else _parsed(completion, decode)
    _score(answer)
    return answer.rationale


def _score(answer: Answer) -> float:
    if answer.score is None:
        raise NoScore(answer.reason or "no_answer")
    return answer.score
