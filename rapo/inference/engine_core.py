"""The core of a vLLM engine: requests of one sequence in, the tokens of each step out.

vLLM's own layers around it make texts and objects of every token. What is made here of tokens are
arrays, or trees of answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class StepOutput:
    """What a step wrote for the request `name`.

    `logprobs` float32 `(tokens, 1 + named)`: of each token itself, and then of the tokens that the
    request names (vLLM's `logprob_token_ids`); None where it asked for none. `reason` why the
    request ended (stop or length), None where it goes on.
    """

    name: str
    token_ids: list[int]
    logprobs: NDArray[np.float32] | None
    reason: str | None


class Core:
    """Of a `vllm.LLM`, which must run its core in this process."""

    def __init__(self, llm: Any) -> None:
        from vllm.v1.engine import EngineCoreRequest

        self._client = llm.llm_engine.engine_core
        self._request = EngineCoreRequest

    def add(self, name: str, prompt_ids: Sequence[int], features: list[Any], parameters: Any) -> None:
        """`parameters` (vLLM's `SamplingParams`, for one completion) belong to this request from
        here on."""
        request = self._request(
            request_id=name,
            prompt_token_ids=list(prompt_ids),
            mm_features=features,
            sampling_params=parameters,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self._client.add_request(request)

    def cancel(self, names: Iterable[str]) -> None:
        """Between two steps. Nothing more is told of these requests; names that have ended are
        nothing."""
        self._client.abort_requests(list(names))

    def step(self) -> list[StepOutput]:
        """Advance every running request by a token, as far as there is room for it."""
        return [
            StepOutput(
                output.request_id,
                output.new_token_ids,
                output.new_logprobs.logprobs if output.new_logprobs is not None else None,
                str(output.finish_reason) if output.finish_reason is not None else None,
            )
            for output in self._client.get_output().outputs
        ]
