"""FlashAttention on a GPU: in bfloat16 the kernels give what torch's public attention gives in
float32, for packed text and for windows, and for a whole policy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from rapo.policy.attention import flash
from rapo.policy.attention.shared_prefix import shared_prefix_attention
from rapo.policy.attention.windows import windowed_attention
from rapo.policy.batch import collate
from rapo.policy.forward import GroupPolicy
from rapo.policy.packing import Layout, Sequences
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model
from tests.tiny_families import build_tiny

pytestmark = [
    pytest.mark.integration,
    pytest.mark.gpu,
    # Not by what torch finds: `make gpu` must fail where it finds no GPU.
    pytest.mark.skipif(not os.environ.get("RAPO_TEST_GPUS"), reason="the kernels are for GPUs (make gpu)"),
]

#: Of the norm. bfloat16 has 8 bits; a token too many or too few would be far above it.
TOLERANCE = 2**-6
#: Prefix lengths of the images, and the fed tokens of each of their completions. The kernels work
#: in blocks of 64 and 128 tokens.
CASES = {
    "ragged": ([300, 129, 411], [[130, 1], [64, 257], [0, 33]]),
    "no completion of an image feeds anything": ([130, 64], [[5, 9], [0, 0]]),
    "no completion feeds anything": ([130, 64], [[0, 0], [0, 0]]),
    "one completion": ([300], [[200]]),
    "a completion feeds one token or none": ([140, 130], [[1], [0]]),
}
WINDOWS = [64] * 9 + [32, 16, 48]


def tensors(tokens: int, heads: int, kv_heads: int, head_dim: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(1, count, tokens, head_dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, device="cuda").bfloat16().requires_grad_() for shape in shapes]


def compare(attend: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> None:
    """`attend` on the inputs, for which the kernel is taken, and on the same in float32, for which
    it is not: the outputs and the gradients."""
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    assert flash.takes(inputs[0], 0.0)
    assert not flash.takes(exact[0], 0.0)
    out, expected = attend(*inputs), attend(*exact)
    weights = torch.linspace(-1.0, 1.0, out.numel(), device="cuda").view_as(out)
    found = [out, *torch.autograd.grad((out.float() * weights).sum(), inputs)]
    wanted = [expected, *torch.autograd.grad((expected * weights).sum(), exact)]
    for one, other in zip(found, wanted, strict=True):
        assert float((one.float() - other).norm()) < TOLERANCE * float(other.norm())


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(28, 4, 128), (16, 16, 80), (4, 2, 16)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_packed_text(case: tuple[list[int], list[list[int]]], heads: int, kv_heads: int, head_dim: int) -> None:
    layout = Layout.of(*(torch.tensor(lengths, device="cuda") for lengths in case))
    inputs = tensors(int(layout.sequences.offsets[-1]), heads, kv_heads, head_dim)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        module = torch.nn.Module()
        return shared_prefix_attention(module, query, key, value, None, layout=layout, scaling=head_dim**-0.5)[0]

    compare(attend, inputs)


@pytest.mark.parametrize("head_dim", [72, 80])
def test_windows(head_dim: int) -> None:
    windows = Sequences.of(torch.tensor(WINDOWS, device="cuda"))
    places = {"cu_seq_lens_q": windows.offsets, "max_length_q": windows.longest}

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return windowed_attention(torch.nn.Module(), query, key, value, None, scaling=head_dim**-0.5, **places)[0]

    compare(attend, tensors(sum(WINDOWS), 16, 16, head_dim))


def test_a_policy_gives_the_log_probs_that_it_gives_without_the_kernels(tmp_path: Path) -> None:
    folder = build_tiny("qwen2_5_vl", tmp_path / "model", ["the light is even; "])
    processor = PolicyProcessor(folder)
    model = load_model(str(folder), "bfloat16").cuda()
    policy = GroupPolicy(model, processor.banned_token_ids)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in ((84, 84), (60, 150))]
    answers = [[rng.integers(20, 60, n) for n in (1, 7, 4)] for _ in images]
    batch = collate([processor.prepare(image) for image in images], answers, processor.tokenizer.pad_token_id)
    batch = batch.to(torch.device("cuda"), torch.bfloat16)
    with torch.no_grad():
        flashed = policy.cuda()(batch)[0]
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            plain = policy(batch)[0]
    assert float((flashed - plain).norm()) < TOLERANCE * float(plain.norm())
