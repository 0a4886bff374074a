"""FlashAttention without padding: on a stand-in for the kernels equal to plain attention, and of
the shapes that the operators say."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from attention_cases import CASES, DIM, HEADS, SCALING, attend, dense, gradients, layout_of, one_by_one, tensors
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from rapo.policy.attention import flash
from rapo.policy.attention.windows import windowed_attention
from rapo.policy.packing import Sequences
from tests.flash_stand_in import flash_attention_backward, flash_attention_forward, stand_in

WINDOWS = [3, 1, 8, 4]


@pytest.fixture
def kernel(monkeypatch):
    """The stand-in, which is taken for any device; the names of its calls."""
    monkeypatch.setattr(flash, "takes", lambda query, dropout: not dropout)
    with stand_in() as calls:
        yield calls


@pytest.fixture
def hopper(monkeypatch):
    """A torch that was built for GPUs and has one of compute capability 9.0."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    flash._kernel_takes.cache_clear()
    yield
    flash._kernel_takes.cache_clear()


def see_windows(inputs, offsets):
    longest = max(WINDOWS)
    places = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": longest, "max_length_k": longest}
    query, key, value = inputs
    return windowed_attention(torch.nn.Module(), query, key, value, None, scaling=SCALING, is_causal=False, **places)[
        0
    ][0]


def window_by_window(inputs):
    starts = Sequences.of(torch.tensor(WINDOWS)).offsets.tolist()
    rows = [list(range(*pair)) for pair in zip(starts, starts[1:], strict=False)]
    return torch.cat([dense(*inputs, window, causal=False) for window in rows])


@pytest.mark.parametrize(
    ("operator", "function", "results"),
    [
        (
            torch.ops.aten._flash_attention_forward,
            flash_attention_forward,
            ["output", "softmax_logsumexp", "rng_state", "unused", "debug_attn_mask"],
        ),
        (torch.ops.aten._flash_attention_backward, flash_attention_backward, ["", "", ""]),
    ],
)
def test_the_operators_still_take_what_the_stand_in_takes(operator, function, results):
    schema, parameters = operator.default._schema, inspect.signature(function).parameters.values()
    assert [(a.name, a.kwarg_only, a.default_value if a.has_default_value() else "none") for a in schema.arguments] == [
        (p.name, p.kind is p.KEYWORD_ONLY, "none" if p.default is p.empty else p.default) for p in parameters
    ]
    assert [result.name for result in schema.returns] == results


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_packed_attention_equals_plain_causal_attention(kernel, case, kv_heads):
    inputs = tensors(case, kv_heads, dtype=torch.float64)
    expected = one_by_one(*inputs, *case)
    layout = layout_of(*case)
    out = attend(inputs, layout)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    parts = 1 if layout.completions is None else 2
    assert kernel == ["forward"] * parts + ["backward"] * parts


def test_scores_far_apart_do_not_overflow(kernel):
    case = CASES["ragged"]
    inputs = tensors(case, HEADS, scale=30.0, dtype=torch.float64)
    out = attend(inputs, layout_of(*case))
    torch.testing.assert_close(out, one_by_one(*inputs, *case), rtol=1e-4, atol=1e-4)
    assert all(bool(g.isfinite().all()) for g in gradients(out, inputs))


def test_bfloat16_stays_bfloat16(kernel):
    case = CASES["ragged"]
    inputs = tensors(case, 2, dtype=torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = one_by_one(*exact, *case)
    out = attend(inputs, layout_of(*case))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=2**-7)
    for one, other in zip(gradients(out, inputs), gradients(expected, exact), strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one - other).norm() / other.norm()) < 2**-6


def test_windows_see_themselves_in_one_call(kernel):
    inputs = tensors(([sum(WINDOWS)], [[0]]), HEADS, dtype=torch.float64)
    expected = window_by_window(inputs)
    out = see_windows(inputs, Sequences.of(torch.tensor(WINDOWS)).offsets)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert kernel == ["forward", "backward"]


def test_windows_are_looped_over_without_the_kernel():
    inputs = tensors(([sum(WINDOWS)], [[0]]), HEADS)
    out = see_windows(inputs, Sequences.of(torch.tensor(WINDOWS)).offsets)
    torch.testing.assert_close(out, window_by_window(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "head_dim", "built", "reason"),
    [
        ("cuda", (8, 0), torch.bfloat16, 128, True, None),
        ("cuda", (8, 6), torch.float16, 80, True, None),
        ("cuda", (12, 0), torch.bfloat16, 192, True, None),
        ("cuda", (9, 0), torch.bfloat16, 128, False, "has no FlashAttention for 'cuda'"),
        ("xpu", (0, 0), torch.bfloat16, 128, True, "for 'xpu'"),
        ("cuda", (7, 5), torch.float16, 128, True, "the GPU has 7.5"),
        ("cuda", (9, 0), torch.float32, 128, True, "not in torch.float32"),
        ("cuda", (9, 0), torch.bfloat16, 100, True, "not of 100"),
        ("cuda", (9, 0), torch.bfloat16, 256, True, "not of 256"),
    ],
)
def test_which_devices_have_the_kernel(device, capability, dtype, head_dim, built, reason):
    found = flash.refusal(device, capability, dtype, head_dim, built=built)
    assert found is None if reason is None else found is not None and reason in found


def test_the_kernel_is_chosen_by_the_tensor_and_a_refusal_is_said_once(hopper, caplog):
    with FakeTensorMode():
        half, single = (torch.empty(1, HEADS, 6, DIM, device="cuda", dtype=t) for t in (torch.bfloat16, torch.float32))
    for _ in range(2):
        assert flash.takes(half, 0.0)
        assert not flash.takes(single, 0.0)
    assert [record.getMessage().count("not in torch.float32") for record in caplog.records] == [1]
    assert not flash.takes(half, 0.1)
    assert not flash.takes(torch.empty(1, HEADS, 6, DIM, dtype=torch.bfloat16), 0.0)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        assert not flash.takes(half, 0.0)


@pytest.fixture
def shapes_only(monkeypatch):
    """The operators themselves, on tensors that have a shape and nothing else."""
    monkeypatch.setattr(flash, "takes", lambda query, dropout: True)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_operators_accept_packed_text(shapes_only, case, kv_heads):
    layout = layout_of(*case)
    places = {name: _on_meta(getattr(layout, name)) for name in ("sequences", "prefixes", "behind")}
    inputs = _shapes(sum(case[0]) + sum(map(sum, case[1])), kv_heads)
    out = attend(inputs, replace(layout, **places))
    assert (out.shape, out.dtype) == ((inputs[0].shape[2], HEADS, DIM), torch.bfloat16)
    for grad, given in zip(torch.autograd.grad(out.sum(), inputs), inputs, strict=True):
        assert (grad.shape, grad.dtype) == (given.shape, torch.bfloat16)


def test_the_operators_accept_windows(shapes_only):
    inputs = _shapes(sum(WINDOWS), HEADS)
    out = see_windows(inputs, _on_meta(Sequences.of(torch.tensor(WINDOWS))).offsets)
    assert out.shape == (sum(WINDOWS), HEADS, DIM)
    assert all(grad.shape == inputs[0].shape for grad in torch.autograd.grad(out.sum(), inputs))


def _shapes(tokens, kv_heads):
    shapes = [(1, heads, tokens, DIM) for heads in (HEADS, kv_heads, kv_heads)]
    return [torch.empty(shape, device="meta", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]


def _on_meta(sequences):
    return replace(sequences, offsets=sequences.offsets.to("meta"))
