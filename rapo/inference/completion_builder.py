"""Completions of one request while they are drawn."""

from __future__ import annotations

import numpy as np

from rapo.inference.engine_core import StepOutput
from rapo.inference.types import Completion


class CompletionBuilder:
    """Takes in what each step wrote for the `completions` of a request, each with its log-probs if
    `logprobs`."""

    def __init__(self, completions: int, *, logprobs: bool) -> None:
        self._token_ids: list[list[int]] = [[] for _ in range(completions)]
        self._logprobs: list[list[float]] | None = [[] for _ in range(completions)] if logprobs else None
        self._versions: list[list[int]] = [[] for _ in range(completions)]
        self._reasons = [""] * completions
        self.unfinished = set(range(completions))

    def take(self, number: int, written: StepOutput, version: int | None) -> bool:
        """For completion `number`, by weight version `version` (None: of no version); whether all
        are whole with it."""
        count = len(written.token_ids)
        self._token_ids[number] += written.token_ids
        self._versions[number] += [-1 if version is None else version] * count
        if self._logprobs is not None:
            if count and (written.logprobs is None or len(written.logprobs) != count):
                told = 0 if written.logprobs is None else len(written.logprobs)
                raise RuntimeError(f"{told} log-probs for {count} tokens: the engine broke its contract")
            self._logprobs[number] += written.logprobs[:, 0].tolist() if written.logprobs is not None else []
        if written.reason is not None:
            self._reasons[number] = written.reason
            self.unfinished.discard(number)
        return not self.unfinished

    def completions(self) -> list[Completion]:
        """In their order; to be asked once `take` has said that all are whole."""
        return [
            Completion(
                np.asarray(token_ids, np.int32),
                np.asarray(self._logprobs[number], np.float32) if self._logprobs is not None else None,
                self._reasons[number],
                np.asarray(self._versions[number], np.int32),
            )
            for number, token_ids in enumerate(self._token_ids)
        ]
