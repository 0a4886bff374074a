"""Core: vLLM's engine core, with requests of one sequence in and the tokens of each step out.

vLLM's own layers around the core make texts and objects of every token. Here tokens become arrays,
or trees of answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams
    from vllm.multimodal.inputs import MultiModalFeatureSpec


@dataclass(slots=True)
class StepOutput:
    """The tokens that a step added to the request `name`.

    `logprobs` is float32 `(tokens, 1 + named)`: of each token itself, then of the tokens that the
    request names (vLLM's `logprob_token_ids`); None where the request wants none. `reason` is why
    the request ended ("stop" or "length"), None while it continues.
    """

    name: str
    token_ids: list[int]
    logprobs: NDArray[np.float32] | None
    reason: str | None


class Core:
    """The core of a `vllm.LLM`, which must run it in this process."""

    def __init__(self, llm: LLM) -> None:
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.request import RequestStatus

        self._client = llm.llm_engine.engine_core
        self._scheduler = self._client.engine_core.scheduler
        self._request = EngineCoreRequest
        self._runs = RequestStatus.RUNNING

    def add(
        self, name: str, prompt_ids: Sequence[int], features: list[MultiModalFeatureSpec], parameters: SamplingParams
    ) -> None:
        """Add a request. The core keeps `parameters` (for one completion): pass each request its
        own."""
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
        """Remove requests; later steps return nothing of them. Names that have ended are ignored.
        Call it between two steps."""
        self._client.abort_requests(list(names))

    def computed_tokens(self, name: str) -> int:
        """Of how many tokens of the request `name` the KV cache holds what was computed; 0 while it
        does not run, and after it has ended."""
        request = self._scheduler.requests.get(name)
        return request.num_computed_tokens if request is not None and request.status == self._runs else 0

    def step(self) -> list[StepOutput]:
        """Advance the running requests by a token, as far as there is room for them."""
        return [
            StepOutput(
                output.request_id,
                output.new_token_ids,
                output.new_logprobs.logprobs if output.new_logprobs is not None else None,
                str(output.finish_reason) if output.finish_reason is not None else None,
            )
            for output in self._client.get_output().outputs
        ]
