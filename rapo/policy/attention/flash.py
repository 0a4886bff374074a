"""Flash: torch's FlashAttention kernels over sequences without padding, where a GPU has them.

- The kernels are those behind torch's own attention. They are called through their operators,
  because a completion is attended to in two calls, and only the operators give the log-sum-exp and
  take that of both calls in the backward pass.
- A packed sequence takes two calls: every prefix and every completion sees itself (causal), then
  the completions of an image, as one sequence, see its prefix. The second result is merged into the
  first as in `rapo.policy.attention.shared_prefix`. Keys and values keep their own heads.
- Windows of a vision tower take one call, in which each sees itself.
- What the kernels demand of their arguments is written down in `tests/flash_stand_in.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import torch

from rapo.policy.packing import Layout, Sequences

logger = logging.getLogger(__name__)

_flash = torch.ops.aten._flash_attention_forward
_flash_backward = torch.ops.aten._flash_attention_backward


def takes(query: torch.Tensor, dropout: float) -> bool:
    """Whether the kernels compute attention for `query` `(..., d)`. torch's own switch
    (`torch.backends.cuda.enable_flash_sdp`, `sdpa_kernel`) turns them off."""
    if dropout or not torch.backends.cuda.flash_sdp_enabled():
        return False
    return _kernel_takes(query.device, query.dtype, query.shape[-1])


@cache
def _kernel_takes(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether there is no `refusal`. Devices other than the CPU, which has a way of its own, are
    warned of it once."""
    if device.type == "cpu":
        return False
    built = torch.version.hip is None and torch.backends.cuda.is_flash_attention_available()
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    reason = refusal(device.type, capability, dtype, head_dim, built=built)
    if reason is not None:
        logger.warning("%s: attention repeats prefixes and takes windows one by one: %s", device, reason)
    return reason is None


def refusal(device: str, capability: tuple[int, int], dtype: torch.dtype, head_dim: int, *, built: bool) -> str | None:
    """Why the kernels do not compute attention on a device of this type and CUDA compute capability
    in a torch that was `built` with them; None where they do."""
    if device != "cuda" or not built:
        return f"this torch has no FlashAttention for {device!r}"
    if capability < (8, 0):
        return f"FlashAttention needs compute capability 8.0, the GPU has {capability[0]}.{capability[1]}"
    if dtype not in {torch.bfloat16, torch.float16}:
        return f"FlashAttention computes in bfloat16 or float16, not in {dtype}"
    # The kernels go up to 256. Above 192 not every card has the backward pass.
    if head_dim % 8 or head_dim > 192:
        return f"FlashAttention takes heads of 8, 16, ... 192, not of {head_dim}"
    return None


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float
) -> torch.Tensor:
    """Attention `(T, heads, d)` of `query` `(T, heads, d)` over `key` and `value` `(T, kv_heads,
    d)`, all in the order of `layout`."""
    own = _Call(layout.sequences, layout.sequences, causal=True, scaling=scaling)
    behind = _Call(layout.behind, layout.prefixes, causal=False, scaling=scaling)
    return _Flash.apply(query, key, value, own, None if layout.completions is None else behind, layout.prefix_tokens)


def window_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, windows: Sequences, scaling: float
) -> torch.Tensor:
    """Attention `(T, heads, d)` in which each token sees all tokens of its window."""
    return _Flash.apply(query, key, value, _Call(windows, windows, causal=False, scaling=scaling), None, 0)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the kernel, in which each of `queries` sees that of `keys` of the same number."""

    queries: Sequences
    keys: Sequences
    causal: bool
    scaling: float

    @property
    def _longest(self) -> tuple[int, int]:
        """The longest of queries and keys. Where queries are said to have at most one token and
        heads share their keys, the kernel takes each to have exactly one, and some have none."""
        return max(2, self.queries.longest), self.keys.longest

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The attention, and its float32 log-sum-exp `(heads, T)`."""
        offsets, fixed = (self.queries.offsets, self.keys.offsets), (0.0, self.causal, False)
        out, lse, *_ = _flash(query, key, value, *offsets, *self._longest, *fixed, scale=self.scaling)
        return out, lse

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """This call's share in the gradients of `query`, `key` and `value`, where `out` and `lse`
        are those of all calls together."""
        offsets, unused = (self.queries.offsets, self.keys.offsets), query.new_empty(0)  # no dropout, no random state
        # The kernel reads the log-sum-exp as `(heads, T)` without gaps, whatever its strides say.
        # The operator itself sees to that for `grad` and `out`.
        given = (grad, query, key, value, out, lse.contiguous())
        fixed = (0.0, self.causal, unused, unused)
        grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _flash_backward(
            *given, *offsets, *self._longest, *fixed, scale=self.scaling
        )
        return grads


class _Flash(torch.autograd.Function):
    """The call `own`, and the call `behind` of the tokens from `cut` on over those before, in one
    softmax. All tensors are `(T, heads, d)`."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        own: _Call,
        behind: _Call | None,
        cut: int,
    ) -> torch.Tensor:
        out, lse = own.forward(query, key, value)
        if behind is not None:
            prefix_out, prefix_lse = behind.forward(query[cut:], key[:cut], value[:cut])
            # Weights of the two parts; their sum is 1. In float32, so that the sum is rounded once.
            weight = torch.sigmoid(lse[:, cut:] - prefix_lse).T[..., None]
            out[cut:] = torch.lerp(prefix_out.float(), out[cut:].float(), weight)
            lse[:, cut:] = torch.logaddexp(lse[:, cut:], prefix_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.own, ctx.behind, ctx.cut = own, behind, cut
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), cut = grads, ctx.cut
        query, key, value, out, lse = ctx.saved_tensors  # read once: recomputation unpacks each tensor once
        of_query, of_key, of_value = ctx.own.backward(grad, query, key, value, out, lse)
        if ctx.behind is not None:
            tail = [grad[cut:], query[cut:], key[:cut], value[:cut], out[cut:], lse[:, cut:]]
            shares = ctx.behind.backward(*tail)
            of_query[cut:] += shares[0]
            of_key[:cut] += shares[1]
            of_value[:cut] += shares[2]
        return of_query, of_key, of_value, None, None, None
