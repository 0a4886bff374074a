"""CompletionBuilder: collects the completions of one request from the engine's steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rapo.inference.engine_core import StepOutput
from rapo.inference.types import Completion


class CompletionBuilder:
    """The `completions` completions of a request, with log-probs if `logprobs`.

    `unfinished` holds the indices of the completions that have not ended.
    """

    def __init__(self, completions: int, *, logprobs: bool) -> None:
        self._token_ids: list[list[int]] = [[] for _ in range(completions)]
        self._logprobs: list[list[float]] | None = [[] for _ in range(completions)] if logprobs else None
        self._symbols: list[list[NDArray[np.float32]]] = [[] for _ in range(completions)]
        self._versions: list[list[int]] = [[] for _ in range(completions)]
        self._reasons = [""] * completions
        self.unfinished = set(range(completions))

    def add(self, index: int, output: StepOutput, version: int | None) -> bool:
        """Append a step's tokens to completion `index`; whether all completions have ended.

        `version` is the weight version that the tokens were sampled from, None where it is unknown
        (stored as -1). Raises `RuntimeError` where log-probs are missing.
        """
        count = len(output.token_ids)
        self._token_ids[index] += output.token_ids
        self._versions[index] += [-1 if version is None else version] * count
        if self._logprobs is not None:
            values = [] if output.logprobs is None else output.logprobs[:, 0].tolist()
            if count and len(values) != count:
                raise RuntimeError(f"the engine returned {len(values)} log-probs for {count} tokens")
            self._logprobs[index] += values
            if output.logprobs is not None and output.logprobs.shape[1] > 1:
                self._symbols[index].append(output.logprobs[:, 1:])
        if output.reason is not None:
            self._reasons[index] = output.reason
            self.unfinished.discard(index)
        return not self.unfinished

    def completions(self) -> list[Completion]:
        """The completions in the order of their indices. Call it once all have ended."""
        return [
            Completion(
                np.asarray(token_ids, np.int32),
                np.asarray(self._logprobs[index], np.float32) if self._logprobs is not None else None,
                self._reasons[index],
                np.asarray(self._versions[index], np.int32),
                np.concatenate(self._symbols[index]) if self._symbols[index] else None,
            )
            for index, token_ids in enumerate(self._token_ids)
        ]
