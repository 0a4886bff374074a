"""Attention over shared prefixes by an explicit softmax, one completion at a time, and the cases to
compare it on."""

from __future__ import annotations

import math

import torch

from rapo.policy.attention.shared_prefix import shared_prefix_attention
from rapo.policy.packing import Layout

HEADS, DIM, SCALING = 4, 8, 0.3
#: Prefix lengths of the images, and the fed tokens of each of their completions.
CASES = {
    "even": ([5, 5], [[4, 4], [4, 4]]),
    "ragged": ([3, 7, 5], [[4, 1], [2, 6], [3, 3]]),
    "some completions feed nothing": ([4, 6], [[0, 3], [5, 0]]),
    "no completion of an image feeds anything": ([4, 6, 3], [[2, 1], [0, 0], [0, 1]]),
    "no completion feeds anything": ([4, 6], [[0, 0], [0, 0]]),
    "one image, one completion": ([6], [[3]]),
    "a completion feeds one token or none": ([4, 6, 3], [[1], [0], [1]]),
    "no sequence has two tokens": ([1, 1], [[1], [0]]),
}


def layout_of(prefixes: list[int], completions: list[list[int]]) -> Layout:
    return Layout.of(torch.tensor(prefixes), torch.tensor(completions))


def tensors(
    case: tuple[list[int], list[list[int]]], kv_heads: int, scale: float = 2.0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value of a packed sequence, as transformers' layers give them."""
    tokens = sum(case[0]) + sum(map(sum, case[1]))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        (scale * torch.randn(1, heads, tokens, DIM, generator=generator)).to(dtype).requires_grad_()
        for heads in (HEADS, kv_heads, kv_heads)
    )
    return query, key, value


def attend(inputs, layout, **settings):
    """`(T, heads, d)`: what transformers' layers would get of query, key and value."""
    query, key, value = inputs
    module, given = torch.nn.Module(), {"layout": layout, "scaling": SCALING, **settings}
    return shared_prefix_attention(module, query, key, value, None, **given)[0][0]


def one_by_one(query, key, value, prefixes, completions):
    """`(T, heads, d)`: the prefix alone, then every completion behind a prefix of its own, with an
    explicit softmax."""
    key, value = (t.repeat_interleave(HEADS // t.shape[1], dim=1) for t in (key, value))
    cut, start, parts, outs = sum(prefixes), 0, [], []
    own = cut
    for length, fed in zip(prefixes, completions, strict=True):
        prefix = list(range(start, start + length))
        outs.append(dense(query, key, value, prefix)[-length:])
        for n in fed:
            rows = [*prefix, *range(own, own + n)]
            parts.append(dense(query, key, value, rows)[length:])
            own += n
        start += length
    return torch.cat([*outs, *parts])


def dense(query, key, value, rows, *, causal=True):
    q, k, v = (t[0][:, rows] for t in (query, key, value))
    scores = q @ k.transpose(1, 2) * SCALING
    mask = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
    return ((scores.masked_fill(~mask, -math.inf) if causal else scores).softmax(-1) @ v).transpose(0, 1)


def gradients(out, inputs):
    weights = torch.linspace(-1.0, 1.0, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum(), inputs)
