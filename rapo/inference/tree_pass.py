"""TreePass: reads the trees of answers that are ready after a step, in forward passes of their own.

- It takes the KV blocks for the passes from vLLM's pool and gives them back before the next step.
- Where the pool has too few, the trees that do not fit are left to their requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rapo.answers.answer_tokens import AnswerTokens
from rapo.inference.tree_reader import DIGITS, SCRATCH_BLOCKS, TRUNKS
from rapo.inference.types import TreeQuery

if TYPE_CHECKING:
    from vllm import LLM

# More trees in one pass cost memory and save nothing.
_MOST = 16


class TreePass:
    """Reads trees on the engine of `llm`, whose core runs in this process. `banned` are the token
    ids that are never sampled."""

    def __init__(self, llm: LLM, tokens: AnswerTokens, banned: Sequence[int]) -> None:
        self._llm = llm
        self._arguments = (tokens.ids("".join((*TRUNKS, DIGITS))), tokens.read, list(banned))
        self._pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool

    @staticmethod
    def possible(llm: LLM) -> bool:
        """Whether the engine is of the kind that was tried: one worker, on a CPU, whose steps end
        before the next begins."""
        config = llm.llm_engine.vllm_config
        if config.scheduler_config.async_scheduling or config.parallel_config.world_size > 1:
            return False
        return all(llm.collective_rpc("rapo_reads_trees"))

    def __call__(self, queries: Sequence[TreeQuery]) -> NDArray[np.float32]:
        """Log-probs `(trees, 16, tokens)` of the first `trees` queries, as many as there are
        blocks for. Call it between two steps, while the requests of the queries run."""
        count = min(len(queries), self._pool.get_num_free_blocks() // SCRATCH_BLOCKS)
        parts = [self._read(queries[start : min(start + _MOST, count)]) for start in range(0, count, _MOST)]
        return np.concatenate(parts) if parts else np.empty((0, 0, 0), np.float32)

    def _read(self, queries: Sequence[TreeQuery]) -> NDArray[np.float32]:
        blocks = self._pool.get_new_blocks(len(queries) * SCRATCH_BLOCKS)
        try:
            scratch = [block.block_id for block in blocks]
            (logprobs,) = self._llm.collective_rpc("rapo_read_trees", args=(queries, scratch, *self._arguments))
        finally:
            self._pool.free_blocks(blocks)
        return logprobs
