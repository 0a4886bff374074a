"""Shared-prefix attention: equal to plain causal attention, one completion at a time."""

from __future__ import annotations

import pytest
import torch
from attention_cases import CASES, HEADS, SCALING, attend, gradients, layout_of, one_by_one, tensors

from rapo.policy.attention.shared_prefix import concatenated


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_equals_plain_causal_attention(case, kv_heads):
    inputs = tensors(case, kv_heads)
    expected = one_by_one(*inputs, *case)
    out = attend(inputs, layout_of(*case))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_variant_for_other_devices_gives_the_same(case):
    inputs = tensors(case, HEADS)
    expected = one_by_one(*inputs, *case)
    query, key, value = (t[0].transpose(0, 1) for t in inputs)
    out = concatenated(query, key, value, layout_of(*case), SCALING)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_scores_far_apart_do_not_overflow():
    """One part may outweigh the other by e^100 and more; the merged result must stay right."""
    case = CASES["ragged"]
    inputs = tensors(case, HEADS, scale=30.0)
    out = attend(inputs, layout_of(*case))
    torch.testing.assert_close(out, one_by_one(*inputs, *case), rtol=1e-4, atol=1e-4)
    assert all(bool(g.isfinite().all()) for g in gradients(out, inputs))


def test_without_a_layout_it_is_transformers_own_attention():
    inputs = tensors(([6], [[0]]), 2, scale=1.0)
    out = attend([t.repeat_interleave(HEADS // t.shape[1], 1) for t in inputs], None)
    torch.testing.assert_close(out, one_by_one(*inputs, [6], [[0]]), rtol=1e-5, atol=1e-6)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        attend(tensors(([5], [[0]]), HEADS), layout_of([5], [[0]]), dropout=0.1)
