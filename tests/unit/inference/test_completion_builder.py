"""CompletionBuilder: tokens, log-probs and versions of each completion, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.inference.completion_builder import CompletionBuilder
from rapo.inference.engine_core import StepOutput


def step(tokens: list[int], logprobs: list[float] | None = None, reason: str | None = None) -> StepOutput:
    values = None if logprobs is None else np.array(logprobs, np.float32)[:, None]
    return StepOutput("name", tokens, values, reason)


def test_completions_keep_their_own_tokens_log_probs_and_versions() -> None:
    builder = CompletionBuilder(2, logprobs=True)
    assert not builder.add(1, step([5], [-0.5]), 3)
    assert not builder.add(0, step([6], [-0.25]), 3)
    assert not builder.add(0, step([], reason="stop"), 4)  # it may end without a token
    assert builder.unfinished == {1}
    assert builder.add(1, step([7, 8], [-1.0, -2.0], "length"), 4)
    first, second = builder.completions()
    assert (first.token_ids.tolist(), first.finish_reason, first.versions.tolist()) == ([6], "stop", [3])
    assert (second.token_ids.tolist(), second.finish_reason, second.versions.tolist()) == (
        [5, 7, 8],
        "length",
        [3, 4, 4],
    )
    assert second.logprobs is not None
    assert second.logprobs.tolist() == [-0.5, -1.0, -2.0]
    assert (second.logprobs.dtype, second.token_ids.dtype, second.versions.dtype) == (np.float32, np.int32, np.int32)


def test_missing_log_probs_are_an_error_only_where_they_were_requested() -> None:
    builder = CompletionBuilder(1, logprobs=False)
    assert builder.add(0, step([5], reason="stop"), None)
    (completion,) = builder.completions()
    assert (completion.logprobs, completion.versions.tolist()) == (None, [-1])
    with pytest.raises(RuntimeError, match="0 log-probs for 1 tokens"):
        CompletionBuilder(1, logprobs=True).add(0, step([5]), 0)
