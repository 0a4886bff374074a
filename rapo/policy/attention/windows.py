"""Windows: attention of vision towers, each token within its window or image.

- transformers' towers hand the windows' places to an attention function whose name has "flash" in
  it, and call any other once for each window.
- Where `rapo.policy.attention.flash` has no kernel, the windows are looped over as transformers
  does.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rapo.policy.attention import flash
from rapo.policy.packing import Sequences

#: The name under which transformers finds the function below.
NAME = "rapo_flash_windows"


def install(tower: PreTrainedModel) -> None:
    """Make the layers of `tower` call `windowed_attention`."""
    AttentionInterface.register(NAME, windowed_attention)
    tower.config._attn_implementation = NAME


def windowed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention `(1, T, heads, d)` of `query` over `key` and `value` `(1, heads, T, d)`, and no
    attention weights. `cu_seq_lens_q` int32 `(windows + 1,)` are the windows' ends behind a 0."""
    if flash.takes(query, dropout):
        flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        windows = Sequences(cu_seq_lens_q, max_length_q)
        return flash.window_attention(flat[0], flat[1], flat[2], windows, scaling)[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    outs = [
        sdpa_attention_forward(module, *window, None, dropout=dropout, scaling=scaling, is_causal=False)[0]
        for window in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outs, dim=1), None
