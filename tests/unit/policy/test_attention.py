"""Shared-prefix attention: equal to plain causal attention, one completion at a time."""

from __future__ import annotations

import math

import pytest
import torch

from rapo.policy.attention import concatenated, shared_prefix_attention
from rapo.policy.packing import Layout, Ragged

HEADS, DIM, SCALING = 4, 8, 0.3
#: Prefix lengths of the images, and the fed tokens of each of their completions.
CASES = {
    "even": ([5, 5], [[4, 4], [4, 4]]),
    "ragged": ([3, 7, 5], [[4, 1], [2, 6], [3, 3]]),
    "some completions feed nothing": ([4, 6], [[0, 3], [5, 0]]),
    "no completion feeds anything": ([4, 6], [[0, 0], [0, 0]]),
    "one image, one completion": ([6], [[3]]),
}


class Module(torch.nn.Module):
    is_causal = True


def layout_of(prefixes: list[int], completions: list[list[int]]) -> Layout:
    lengths, fed = torch.tensor(prefixes), torch.tensor(completions).flatten()
    prefix = Ragged.of(lengths)
    mask = None if prefix.slots is None else (torch.arange(prefix.width) < lengths[:, None])[:, None, None]
    own = Ragged.of(fed) if int(fed.max()) else None
    return Layout(len(completions[0]), sum(prefixes), prefix, own, mask)


def tensors(tokens: int, kv_heads: int, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        (scale * torch.randn(1, heads, tokens, DIM, generator=generator)).requires_grad_()
        for heads in (HEADS, kv_heads, kv_heads)
    )
    return query, key, value


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


def dense(query, key, value, rows):
    q, k, v = (t[0][:, rows] for t in (query, key, value))
    scores = q @ k.transpose(1, 2) * SCALING
    mask = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
    return (scores.masked_fill(~mask, -math.inf).softmax(-1) @ v).transpose(0, 1)


def gradients(out, inputs):
    weights = torch.linspace(-1.0, 1.0, out.numel()).view_as(out)
    return torch.autograd.grad((out * weights).sum(), inputs)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_equals_plain_causal_attention(case, kv_heads):
    inputs = tensors(sum(case[0]) + sum(map(sum, case[1])), kv_heads, scale=2.0)
    expected = one_by_one(*inputs, *case)
    out, _ = shared_prefix_attention(Module(), *inputs, None, layout=layout_of(*case), scaling=SCALING)
    torch.testing.assert_close(out[0], expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(out[0], inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_variant_for_other_devices_gives_the_same(case):
    inputs = tensors(sum(case[0]) + sum(map(sum, case[1])), HEADS, scale=2.0)
    expected = one_by_one(*inputs, *case)
    query, key, value = (t[0].transpose(0, 1) for t in inputs)
    out = concatenated(query, key, value, layout_of(*case), SCALING)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_scores_far_apart_do_not_overflow():
    """One part may outweigh the other by e^100 and more; the merged result must stay right."""
    case = CASES["ragged"]
    inputs = tensors(sum(case[0]) + sum(map(sum, case[1])), HEADS, scale=30.0)
    out, _ = shared_prefix_attention(Module(), *inputs, None, layout=layout_of(*case), scaling=SCALING)
    torch.testing.assert_close(out[0], one_by_one(*inputs, *case), rtol=1e-4, atol=1e-4)
    assert all(bool(g.isfinite().all()) for g in gradients(out[0], inputs))


def test_without_a_layout_it_is_transformers_own_attention():
    inputs = tensors(6, 2, scale=1.0)
    query, key, value = (t.repeat_interleave(HEADS // t.shape[1], 1) for t in inputs)
    out, _ = shared_prefix_attention(Module(), query, key, value, None, scaling=SCALING)
    torch.testing.assert_close(out[0], one_by_one(*inputs, [6], [[0]]), rtol=1e-5, atol=1e-6)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        shared_prefix_attention(
            Module(), *tensors(5, 4, 1.0), None, layout=layout_of([5], [[0]]), scaling=1.0, dropout=0.1
        )
