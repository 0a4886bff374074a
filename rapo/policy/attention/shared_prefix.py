"""Shared-prefix attention: exact attention that holds each prefix's keys and values once, for any
number of completions behind it.

- Softmax attention over two sets of keys is the attention over each set, weighted by the
  exponential of its log-sum-exp. One call therefore attends to a completion's own tokens (causal),
  another to its image's prefix (all of it, with the queries of the K completions folded into one
  row), and the two results are merged.
- The backward pass of a flash kernel needs only the *merged* output and log-sum-exp to give each
  part's exact share of the gradient (FlashAttention, arXiv 2205.14135, appendix B).
- On a GPU with FlashAttention `rapo.policy.attention.flash` does the same without padding. Any
  other device repeats each prefix for its completions.
- transformers' layers look up the function that `install` registers. The layout comes with the
  call; a call without one is transformers' own attention.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rapo.policy.attention import flash
from rapo.policy.packing import Layout

#: The name under which transformers finds the function below.
NAME = "rapo_shared_prefix"

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def install(text_model: PreTrainedModel) -> None:
    """Make the layers of `text_model` call `shared_prefix_attention`."""
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text_model.config._attn_implementation = NAME


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention `(1, T, heads, d)` of `query` `(1, heads, T, d)` over `key` and `value` `(1,
    kv_heads, T, d)`, all in the order of `layout`, and no attention weights."""
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if dropout:
        raise ValueError("attention over shared prefixes has no dropout")
    flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    if flash.takes(query, dropout):
        return flash.packed_attention(flat[0], flat[1], flat[2], layout, scaling)[None], None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        flat[1:] = [tensor.repeat_interleave(repeats, dim=1) for tensor in flat[1:]]
    if query.device.type == "cpu":
        return _Merged.apply(*flat, layout, scaling)[None], None
    return concatenated(flat[0], flat[1], flat[2], layout, scaling)[None], None


def concatenated(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float
) -> torch.Tensor:
    """The same on any device, by torch's own attention with each prefix's keys and values repeated
    for its completions. All tensors are `(T, heads, d)`."""
    cut = layout.prefix_tokens
    q, k, v = (_heads_first(layout.prefix.pad(tensor[:cut])) for tensor in (query, key, value))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    parts = [layout.prefix.unpad(out.transpose(1, 2))]
    if layout.completions is not None:
        own = [_heads_first(layout.completions.pad(tensor[cut:])) for tensor in (query, key, value)]
        keys, values = (
            torch.cat([before.repeat_interleave(layout.group_size, dim=0), after], dim=2)
            for before, after in zip((k, v), own[1:], strict=True)
        )
        mask = _causal_behind(layout, own[0].shape[2], query.device)
        out = scaled_dot_product_attention(own[0], keys, values, attn_mask=mask, scale=scaling)
        parts.append(layout.completions.unpad(out.transpose(1, 2)))
    return torch.cat(parts)


def _causal_behind(layout: Layout, width: int, device: torch.device) -> torch.Tensor:
    """The mask `(1 or G * K, 1, C, P + C)` of the keys (prefix, then own) that each own query
    sees."""
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()[None, None]
    if layout.prefix_mask is None:
        prefix = torch.ones(1, 1, 1, layout.prefix.width, dtype=torch.bool, device=device)
    else:
        prefix = layout.prefix_mask.repeat_interleave(layout.group_size, dim=0)
    return torch.cat([prefix.expand(-1, -1, width, -1), causal.expand(len(prefix), -1, -1, -1)], dim=3)


def _heads_first(grid: torch.Tensor) -> torch.Tensor:
    return grid.transpose(1, 2)


class _Merged(torch.autograd.Function):
    """Two flash calls per completion, merged by their log-sum-exp, on CPU kernels. All tensors are
    `(T, heads, d)`."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scaling: float,
    ) -> torch.Tensor:
        cut, own = layout.prefix_tokens, layout.completions
        prefix = [_heads_first(layout.prefix.pad(tensor[:cut])) for tensor in (query, key, value)]
        out, lse = _flash(*prefix, is_causal=True, scale=scaling)
        saved = [*prefix, out, lse]
        parts = [layout.prefix.unpad(out.transpose(1, 2))]
        if own is not None:
            rows = [_heads_first(own.pad(tensor[cut:])) for tensor in (query, key, value)]
            own_out, own_lse = _flash(*rows, is_causal=True, scale=scaling)
            folded = _fold(rows[0], layout)
            bias = _bias(layout, query.dtype)
            prefix_out, prefix_lse = _flash(folded, *prefix[1:], attn_mask=bias, scale=scaling)
            prefix_out, prefix_lse = _unfold(prefix_out, layout), _unfold(prefix_lse[..., None], layout)[..., 0]
            # Weights of the two parts; their sum is 1.
            weight = torch.sigmoid(own_lse - prefix_lse)[..., None]
            merged = torch.lerp(prefix_out, own_out, weight.to(own_out.dtype))
            saved += [*rows, merged, torch.logaddexp(own_lse, prefix_lse)]
            parts.append(own.unpad(merged.transpose(1, 2)))
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.scaling = layout, scaling
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layout, scaling = ctx.layout, ctx.scaling
        (grad,) = grads
        cut, own = layout.prefix_tokens, layout.completions
        query, key, value, out, lse, *rest = ctx.saved_tensors  # read once: recomputation unpacks each tensor once
        grad_prefix = _heads_first(layout.prefix.pad(grad[:cut]))
        prefix = list(_flash_backward(grad_prefix, query, key, value, out, lse, 0.0, True, scale=scaling))
        parts = [[tensor] for tensor in prefix]
        if own is not None:
            own_query, own_key, own_value, merged, own_lse = rest
            grad_own = _heads_first(own.pad(grad[cut:]))
            rows = list(
                _flash_backward(grad_own, own_query, own_key, own_value, merged, own_lse, 0.0, True, scale=scaling)
            )
            shared = _flash_backward(
                _fold(grad_own, layout),
                _fold(own_query, layout),
                key,
                value,
                _fold(merged, layout),
                _fold(own_lse[..., None], layout)[..., 0],
                0.0,
                False,
                attn_mask=_bias(layout, query.dtype),
                scale=scaling,
            )
            rows[0] = rows[0] + _unfold(shared[0], layout)
            for index in (1, 2):
                prefix[index] = prefix[index] + shared[index]
            parts = [
                [layout.prefix.unpad(a.transpose(1, 2)), own.unpad(b.transpose(1, 2))]
                for a, b in zip(prefix, rows, strict=True)
            ]
        else:
            parts = [[layout.prefix.unpad(a.transpose(1, 2))] for a in prefix]
        return *(torch.cat(pair) for pair in parts), None, None


def _fold(grid: torch.Tensor, layout: Layout) -> torch.Tensor:
    """`(G * K, heads, C, d)` to `(G, heads, K * C, d)`: a prefix's completions in one row."""
    return grid.unflatten(0, (-1, layout.group_size)).transpose(1, 2).flatten(2, 3)


def _unfold(grid: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The inverse of `_fold`."""
    return grid.unflatten(2, (layout.group_size, -1)).transpose(1, 2).flatten(0, 1)


def _bias(layout: Layout, dtype: torch.dtype) -> torch.Tensor | None:
    """Minus infinity at the padding of prefixes, `(G, 1, 1, P)`; None without padding."""
    if layout.prefix_mask is None:
        return None
    return torch.zeros(layout.prefix_mask.shape, dtype=dtype).masked_fill(~layout.prefix_mask, -torch.inf)
