"""GroupPolicy: the policy's forward pass over groups, to per-token log-probs and entropy.

- In `prefix` mode the K completions of an image share its prompt, its image tokens and its pass
  through the vision tower. All tokens of a micro-batch lie in one sequence without padding
  (`rapo.policy.packing`). Each completion keeps the positions that it would have alone, and
  attention lets it see its prefix and itself (`rapo.policy.attention`).
- What differs between model families is in `rapo.families`.
- In `rows` mode every completion is a row with a prompt of its own. Log-probs and gradients of the
  two modes agree (tests/unit/policy/test_forward.py holds them to 1e-5 in float32).
- DeepSpeed wraps this module itself, so that its hooks see every submodule call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rapo.families.registry import family_of, image_token
from rapo.policy.attention import shared_prefix, windows
from rapo.policy.batch import GroupBatch
from rapo.policy.packing import pack_groups

Packing = Literal["prefix", "rows"]
#: Logits are computed for at most this many elements at a time. With a vocabulary of 152k those of
#: a whole batch would not fit into memory.
_LOGIT_ELEMENTS = 2**27


class GroupPolicy(nn.Module):
    """`model` with a forward pass over a `GroupBatch`.

    Logits are computed in `head_calls` pieces, or more where they need more memory. Under ZeRO-3
    each piece gathers the head, so that the number must be the same on all ranks, and one that
    differs between micro-batches would make DeepSpeed fetch each layer only when it is needed.

    `BIAS` is added to the logits of `banned` tokens, as in the sampler. A model that cannot share
    prefixes runs in `rows` mode, and `fallback` then says why.

    `forward` returns `(log_probs, entropy, symbols)`. The first two are float32 `(tokens,)`, for
    the completion tokens in the order in which `batch.completion_mask` selects them; `entropy`
    carries no gradient. The last is float32 `(A, S)`, the log-probs of the S `symbols` at
    `batch.answer_places`, None where the batch has none.
    """

    BIAS = -100.0

    def __init__(
        self,
        model: PreTrainedModel,
        banned: list[int],
        *,
        temperature: float = 1.0,
        packing: Packing = "prefix",
        symbols: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family_of(model.config)
        self.temperature = temperature
        self.fallback = self.family.unpackable(model.config) if packing == "prefix" else None
        self.packing: Packing = "rows" if self.fallback else packing
        self.head_calls = 1
        bias = torch.zeros(model.config.get_text_config().vocab_size)
        bias[banned] = self.BIAS
        self.register_buffer("logit_bias", bias, persistent=False)
        self.register_buffer("symbols", torch.tensor(symbols, dtype=torch.int64), persistent=False)
        if self.packing == "prefix":
            shared_prefix.install(self.family.text_model(model))
        tower = self.family.windowed_tower(model)
        if tower is not None:
            windows.install(tower)

    def agreed_head_calls(self, tokens: int) -> int:
        """The `head_calls` for a step whose micro-batches have at most `tokens` completion tokens
        on this rank. Under ZeRO-3 it is the same on all ranks, whose call this is."""
        if not hasattr(self.model.get_output_embeddings().weight, "ds_id"):
            return 1
        most = torch.tensor(self._pieces(tokens), device=self.logit_bias.device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        return int(most)

    def forward(self, batch: GroupBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        hidden = self._prefix_hidden(batch) if self.packing == "prefix" else self._row_hidden(batch)
        chosen, entropy = self._token_log_probs(hidden, batch.completion_ids[batch.completion_mask])
        if batch.answer_places is None:
            return chosen, entropy, None
        return chosen, entropy, self._log_probs(hidden[batch.answer_places])[:, self.symbols]

    def _prefix_hidden(self, batch: GroupBatch) -> torch.Tensor:
        """Hidden states `(tokens, H)` that predict each completion token."""
        positions = self.family.positions(
            self.model, batch.prompt_ids, batch.prompt_mask, batch.images, batch.token_types
        )
        packed = pack_groups(batch, positions)
        is_image = packed.ids == image_token(self.model.config)
        is_image[packed.layout.prefix_tokens :] = False
        hidden = self.family.packed_hidden(self.model, packed, is_image, batch.images)
        return hidden.index_select(0, packed.predictor)

    def _row_hidden(self, batch: GroupBatch) -> torch.Tensor:
        """The same hidden states `(tokens, H)`, with each completion behind a copy of its own
        prompt."""
        group_size, width = batch.completion_ids.shape[1], batch.prompt_ids.shape[1]
        completions = batch.completion_ids.flatten(0, 1)
        ids = torch.cat([batch.prompt_ids.repeat_interleave(group_size, dim=0), completions], dim=1)
        mask = torch.cat(
            [
                batch.prompt_mask.repeat_interleave(group_size, dim=0),
                batch.completion_mask.flatten(0, 1).to(batch.prompt_mask.dtype),
            ],
            dim=1,
        )
        types = {
            name: pad(marks.repeat_interleave(group_size, dim=0), (0, completions.shape[1]))
            for name, marks in batch.token_types.items()
        }
        images = [image for image in batch.images for _ in range(group_size)]
        hidden = self.family.row_hidden(self.model, ids, mask, images, types)
        return hidden[:, width - 1 : -1][batch.completion_mask.flatten(0, 1)]

    def _token_log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = max(self.head_calls, self._pieces(len(hidden)))
        if count == 1:
            return self._head(hidden, targets)
        parts = [
            checkpoint(self._head, h, t, use_reentrant=False)
            for h, t in zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _pieces(self, tokens: int) -> int:
        """The fewest pieces to compute the logits of `tokens` tokens in."""
        rows = max(1, _LOGIT_ELEMENTS // self.logit_bias.numel())
        return max(1, -(-tokens // rows))

    def _head(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = self._log_probs(hidden)
        chosen = log_probs.gather(-1, targets[:, None])[:, 0]
        with torch.no_grad():
            entropy = -(log_probs.exp() * log_probs).sum(-1)
        return chosen, entropy

    def _log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = (self.model.get_output_embeddings()(hidden).float() + self.logit_bias) / self.temperature
        return torch.log_softmax(logits, dim=-1)
