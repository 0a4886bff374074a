"""TreeReader: reads whole trees of answers in two forward passes, beside vLLM's own steps.

- vLLM mixes `TreeReader` into its worker (`rapo.inference.worker_extension`).
- The first pass has two sequences for each tree, the *trunks*: the last token before the answer and
  "0.", and the same token and "1.0". The log-probs at their tokens are those of six nodes.
- The second pass has ten sequences of one token for each tree, the digits behind "0.", whose
  log-probs are those of the other ten nodes.
- A sequence shares the KV blocks of the request before it. Only the last block, which is not full,
  is copied, because the sequence writes behind it. Blocks of requests are never written.
- The blocks for the copies (`SCRATCH_BLOCKS` for each tree) belong to the caller, who keeps them
  out of vLLM's reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from rapo.answers.readout import NODES
from rapo.inference.types import TreeQuery

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

#: The characters of the trunks and of the sequences behind the first one.
TRUNKS, DIGITS = ("0.", "1.0"), "0123456789"

# A trunk may begin in one block and end in the next; a digit needs one block.
_TRUNK_BLOCKS = 2
#: What the caller lends for each tree.
SCRATCH_BLOCKS = _TRUNK_BLOCKS * len(TRUNKS) + len(DIGITS)

# Of each token of a tree's trunks: its trunk, its place in it, and the node after it.
_TRUNK = np.array([0, 0, 0, 1, 1, 1, 1])
_PLACE = np.array([0, 1, 2, 0, 1, 2, 3])
_NODES = [TRUNKS[trunk][:place] for trunk, place in zip(_TRUNK, _PLACE, strict=True)]
_NODES += [TRUNKS[0] + digit for digit in DIGITS]
# Of each of `NODES`, the first token after which it is.
_TOKEN_OF_NODE = [_NODES.index(node) for node in NODES]
_LENGTHS = np.array([1 + len(trunk) for trunk in TRUNKS])


class TreeReader:
    """Worker extension; `model_runner` is the worker's own."""

    model_runner: GPUModelRunner

    def rapo_reads_trees(self) -> bool:
        """Whether this worker's model and attention are of the kind that `rapo_read_trees` knows:
        vLLM's runner for CPUs, one kind of KV cache."""
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        runner = self.model_runner
        return isinstance(runner, CPUModelRunner) and [len(groups) for groups in runner.attn_groups] == [1]

    @torch.inference_mode()
    def rapo_read_trees(
        self,
        queries: Sequence[TreeQuery],
        scratch: Sequence[int],
        character_tokens: Sequence[int],
        symbols: Sequence[int],
        banned: Sequence[int],
    ) -> NDArray[np.float32]:
        """Log-probs float32 `(queries, 16, symbols)` of the tokens `symbols` at each of `NODES`.

        `scratch` are `SCRATCH_BLOCKS` block ids for each query, `character_tokens` the token ids of
        the trunks' characters and of `DIGITS`. The tokens `banned` are never sampled. Call it
        between two steps of the engine.
        """
        size, count = self.model_runner.attn_groups[0][0].kv_cache_spec.block_size, len(queries)
        blocks = np.array(scratch, np.int64).reshape(count, SCRATCH_BLOCKS)
        trunks = blocks[:, : -len(DIGITS)].reshape(count, len(TRUNKS), _TRUNK_BLOCKS)
        digits = blocks[:, -len(DIGITS) :]
        requests = [self.model_runner.requests[query.name] for query in queries]
        context = np.array([query.length - 1 for query in queries])
        shift = np.array([request.mrope_position_delta or 0 for request in requests])[:, None]
        full, rest = np.divmod(context, size)
        # Behind the trunk the digits are in the trunk's first block, or in its second one.
        digit_full, digit_rest = np.divmod(context + _LENGTHS[0], size)
        second = digit_full > full

        tables = np.zeros((count, int(full.max()) + 2), np.int64)
        partial = trunks[:, :1, 0].repeat(len(TRUNKS), axis=1)
        for index, request in enumerate(requests):
            own = request.block_ids[0][: full[index] + 1]
            tables[index, : full[index]] = own[: full[index]]
            if rest[index]:
                partial[index] = own[full[index]]
        rows = np.arange(count)

        trunk_tables = tables[:, None].repeat(len(TRUNKS), axis=1)
        for step in range(_TRUNK_BLOCKS):
            trunk_tables[rows, :, full + step] = trunks[:, :, step]
        self._copy_blocks(partial, trunks[:, :, 0])
        place = rest[:, None] + _PLACE
        tokens = np.empty((count, len(_PLACE)), np.int64)
        tokens[:, _PLACE == 0] = np.array([query.last_token for query in queries])[:, None]
        tokens[:, _PLACE > 0] = np.array(character_tokens[: -len(DIGITS)])
        first = self._forward(
            tokens,
            context[:, None] + _PLACE + shift,
            trunks[rows[:, None], _TRUNK, place // size] * size + place % size,
            np.tile(_LENGTHS, count),
            (context[:, None] + _LENGTHS).reshape(-1),
            trunk_tables.reshape(count * len(TRUNKS), -1),
        )

        digit_tables = tables[:, None].repeat(len(DIGITS), axis=1)
        digit_tables[rows[second], :, full[second]] = trunks[second, :1, 0]
        digit_tables[rows, :, digit_full] = digits
        behind = trunks[rows, 0, second.astype(np.int64)]
        self._copy_blocks(behind[:, None].repeat(len(DIGITS), axis=1), digits)
        second_pass = self._forward(
            np.tile(np.array(character_tokens[-len(DIGITS) :]), (count, 1)),
            (context + _LENGTHS[0])[:, None] + shift + np.zeros(len(DIGITS), np.int64),
            digits * size + digit_rest[:, None],
            np.ones(count * len(DIGITS), np.int64),
            np.repeat(context + _LENGTHS[0] + 1, len(DIGITS)),
            digit_tables.reshape(count * len(DIGITS), -1),
        )

        hidden = torch.cat([first.unflatten(0, (count, -1)), second_pass.unflatten(0, (count, -1))], dim=1)
        logits = self.model_runner.get_model().compute_logits(hidden[:, _TOKEN_OF_NODE].flatten(0, 1)).float()
        logits[:, list(banned)] -= 100.0
        logprobs = torch.log_softmax(logits, dim=-1)[:, list(symbols)]
        return logprobs.reshape(count, len(NODES), -1).numpy()

    def _copy_blocks(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Copy KV blocks. Where both ids are the same there is nothing to copy."""
        pairs = torch.from_numpy(np.stack([source.reshape(-1), target.reshape(-1)]))
        for cache in self.model_runner.kv_caches:
            cache.index_copy_(0, pairs[1], cache.index_select(0, pairs[0]))

    def _forward(
        self,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        slots: NDArray[np.int64],
        written: NDArray[np.int64],
        lengths: NDArray[np.int64],
        tables: NDArray[np.int64],
    ) -> torch.Tensor:
        """Hidden states `(tokens, width)` of sequences, one behind the other: of each the number of
        `written` tokens, its length with them, and its block table."""
        runner = self.model_runner
        group, model = runner.attn_groups[0][0], runner.get_model()
        # Positions of three axes are the same on all of them behind the image.
        places = torch.from_numpy(positions.reshape(-1))
        places = places.repeat(3, 1) if runner.uses_mrope else places
        ids, slot_mapping = torch.from_numpy(tokens.reshape(-1)), torch.from_numpy(slots.reshape(-1))
        starts = torch.from_numpy(np.concatenate([[0], np.cumsum(written)]).astype(np.int32))
        metadata = group.get_metadata_builder().build(
            0,
            CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts,
                seq_lens=torch.from_numpy(lengths.astype(np.int32)),
                num_reqs=len(lengths),
                num_actual_tokens=len(ids),
                max_query_len=int(written.max()),
                max_seq_len=int(lengths.max()),
                block_table_tensor=torch.from_numpy(tables.astype(np.int32)),
                slot_mapping=slot_mapping,
            ),
        )
        with set_forward_context(
            dict.fromkeys(group.layer_names, metadata),
            runner.vllm_config,
            num_tokens=len(ids),
            slot_mapping=dict.fromkeys(group.layer_names, slot_mapping),
        ):
            hidden: torch.Tensor = model(
                input_ids=None,
                positions=places,
                inputs_embeds=model.embed_input_ids(ids),
            )
        return hidden
