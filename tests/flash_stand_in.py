"""A stand-in for torch's FlashAttention kernels over sequences without padding, for CPU tensors.

- It is registered behind torch's own operators, so that calls pass their schemas.
- It holds to what torch's source demands of CUDA tensors (`flash_api.cpp`, `mha_varlen_fwd` and
  `mha_varlen_bwd`), and leaves unwritten, as NaN, what the kernels leave unwritten. Unlike them it
  takes any dtype.
- It has no dropout, windows, paged keys or ALiBi.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor
from torch.library import Library


@contextmanager
def stand_in() -> Iterator[list[str]]:
    """Inside it the operators work on CPU tensors. Gives the names of the calls."""
    calls: list[str] = []

    def forward(*args, **kwargs):
        calls.append("forward")
        return flash_attention_forward(*args, **kwargs)

    def backward(*args, **kwargs):
        calls.append("backward")
        return flash_attention_backward(*args, **kwargs)

    library = Library("aten", "IMPL")
    try:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield calls
    finally:
        library._destroy()


def flash_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor | None,
    cum_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    seqused_k: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    unused = (window_size_left, window_size_right, seqused_k, alibi_slopes, block_table, num_splits)
    assert unused == (None,) * 6
    assert not return_debug_mask
    assert cum_seq_q is not None
    assert cum_seq_k is not None
    spans = _spans(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p)
    total, heads, _ = query.shape
    if max_q == 1 and heads > key.shape[1]:  # the kernel folds heads that share keys into the one query
        query.reshape(len(cum_seq_q) - 1, key.shape[1], -1, query.shape[2])
    out = torch.full_like(query, math.nan)
    lse = torch.full((heads, total), math.nan, dtype=torch.float32)
    for queries, keys in spans:
        if keys.start == keys.stop:
            out[queries], lse[:, queries] = 0.0, math.inf
            continue
        scores = _scores(query[queries], key[keys], is_causal, scale)
        lse[:, queries] = scores.logsumexp(-1).float()
        out[queries] = (scores.softmax(-1) @ _headed(value[keys], heads)).transpose(0, 1).to(out.dtype)
    return out, lse, torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64), query.new_empty(0)


def flash_attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    rng_state: Tensor,
    unused: Tensor,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert window_size_left is None
    assert window_size_right is None
    spans = _spans(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p)
    heads = query.shape[1]
    for tensor in (grad_out, out):
        assert tensor.shape == query.shape
        assert tensor.dtype == query.dtype
    assert logsumexp.shape == (heads, len(query))
    assert logsumexp.dtype == torch.float32
    assert logsumexp.is_contiguous()
    grads = [torch.full_like(tensor, math.nan) for tensor in (query, key, value)]
    for queries, keys in spans:
        scores = _scores(query[queries], key[keys], is_causal, scale)
        weights = (scores - logsumexp[:, queries, None]).exp()
        k, v = _headed(key[keys], heads), _headed(value[keys], heads)
        q, d_out, o = (tensor[queries].transpose(0, 1).double() for tensor in (query, grad_out, out))
        d_scores = weights * (d_out @ v.transpose(1, 2) - (d_out * o).sum(-1, keepdim=True)) * _scale(query, scale)
        grads[0][queries] = (d_scores @ k).transpose(0, 1).to(query.dtype)
        for grad, part in ((grads[1], d_scores.transpose(1, 2) @ q), (grads[2], weights.transpose(1, 2) @ d_out)):
            shared = part.unflatten(0, (key.shape[1], -1)).sum(1)  # over the heads that share a key
            grad[keys] = shared.transpose(0, 1).to(grad.dtype)
    return grads[0], grads[1], grads[2]


def _spans(
    query: Tensor, key: Tensor, value: Tensor, cum_q: Tensor, cum_k: Tensor, max_q: int, max_k: int, dropout: float
) -> list[tuple[slice, slice]]:
    """The places of the sequences in queries and keys, where the arguments are what the kernels
    take."""
    assert dropout == 0.0
    assert query.dtype == key.dtype == value.dtype
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    _, heads, head_dim = query.shape
    assert key.shape == value.shape == (len(key), key.shape[1], head_dim)
    assert heads % key.shape[1] == 0
    assert head_dim % 8 == 0
    assert head_dim <= 256
    assert len(cum_q) == len(cum_k) > 1
    for cum, longest, total in ((cum_q, max_q, len(query)), (cum_k, max_k, len(key))):
        assert cum.dtype == torch.int32
        assert cum.is_contiguous()
        assert cum.device == query.device
        assert cum[0] == 0
        assert cum[-1] == total
        assert cum.diff().min() >= 0
        assert cum.diff().max() <= longest
    places = ([slice(*pair) for pair in pairwise(cum.tolist())] for cum in (cum_q, cum_k))
    return list(zip(*places, strict=True))


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float | None) -> Tensor:
    """The scores `(heads, queries, keys)` of one sequence. The last query sees all keys."""
    heads = query.shape[1]
    scores = query.transpose(0, 1).double() @ _headed(key, heads).transpose(1, 2) * _scale(query, scale)
    seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(len(key) - len(query))
    return scores.masked_fill(~seen, -math.inf) if causal else scores


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _headed(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values `(tokens, kv_heads, d)` as float64 `(heads, tokens, d)`."""
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1).transpose(0, 1).double()
