"""Policy loss: the policy-gradient loss on scored groups (the objective J of Aes-R1, arXiv
2509.21871).

With `rapo.loss.answer = "soft_label"` the tokens of the answer are taken apart: neither the policy
gradient nor the KL term acts on them, but a cross-entropy to the human score's soft label.

The ratio is taken to the *behaviour* log-probs, those of the sampler that sampled the tokens. A
difference between sampler and learner, or several updates on one batch, is therefore corrected for
and clipped. In the released code the ratio is always 1, so that its clip bounds never bind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rapo.config import LossConfig


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """Per-token inputs of the loss, each `(tokens,)`; `sequence` is the index of the token's
    completion.

    `lengths` `(completions,)` counts the tokens of each completion. `reference` is None without a
    KL term. `fresh` (bool) marks the tokens that were sampled from the same weights that
    `log_probs` come from; None marks all. `answers` is None where the answers are trained like the
    rationales.
    """

    log_probs: torch.Tensor
    behaviour: torch.Tensor
    advantages: torch.Tensor
    sequence: torch.Tensor
    lengths: torch.Tensor
    reference: torch.Tensor | None = None
    fresh: torch.Tensor | None = None
    answers: AnswerTerms | None = None


@dataclass(frozen=True, slots=True)
class AnswerTerms:
    """The answers' tokens: their `places` `(A,)` among the tokens, and the log-probs and the soft
    labels `(A, S)` of the tokens of answers at each."""

    places: torch.Tensor
    log_probs: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Normalizer:
    """The divisor of the summed loss.

    It counts over the *whole* batch, so that any split over micro-batches and ranks gives the same
    gradient. `scale` undoes the averaging over ranks of data-parallel training.
    """

    completions: int
    tokens: int
    max_tokens: int
    scale: float = 1.0


def policy_loss(
    terms: TokenTerms, settings: LossConfig, normalizer: Normalizer
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss (scalar) and sums for metrics: `kl`, `mismatch_kl`, `fresh_tokens`, `drift_kl`,
    `clipped`, `capped`, `tokens`.

    Per token: `-min(r A, clip(r, 1 - low, 1 + high) A) + beta k3`, with `r = min(pi / pi_behaviour,
    cap)` and `k3 = exp(d) - d - 1`, `d = log pi_ref - log pi`. The cap is truncated importance
    sampling; without it a negative advantage has no bound. With `answers` their tokens contribute
    nothing of this, and `answer_weight` times their cross-entropy is added, per completion.
    `mismatch_kl` is the k3 estimate of KL(behaviour || policy) on fresh tokens: the difference of
    sampler and learner on the same weights. `drift_kl` is the estimate on all tokens, to which
    staleness and several updates on one batch add. With `importance_correction` off the ratio is
    taken to the policy itself, as if every token were fresh.
    """
    log_ratio = terms.log_probs - terms.behaviour
    corrected = log_ratio if settings.importance_correction else terms.log_probs - terms.log_probs.detach()
    ratio = torch.exp(corrected).clamp(max=settings.importance_cap)
    bounded = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    per_token = -torch.minimum(ratio * terms.advantages, bounded * terms.advantages)
    sums = {"kl": 0.0}
    if terms.reference is not None and settings.kl_beta > 0.0:
        difference = terms.reference - terms.log_probs
        k3 = torch.exp(difference) - difference - 1.0
        if terms.answers is not None:
            k3 = k3.index_fill(0, terms.answers.places, 0.0)
        per_token = per_token + settings.kl_beta * k3
        sums["kl"] = float(k3.detach().sum())
    if terms.answers is not None:
        per_token = per_token.index_fill(0, terms.answers.places, 0.0)
    if settings.normalization == "sequence":
        loss = (per_token / terms.lengths[terms.sequence]).sum() / normalizer.completions
    elif settings.normalization == "token":
        loss = per_token.sum() / normalizer.tokens
    else:
        loss = per_token.sum() / (normalizer.completions * normalizer.max_tokens)
    if terms.answers is not None:
        cross_entropy = -(terms.answers.labels * terms.answers.log_probs).sum()
        loss = loss + settings.answer_weight * cross_entropy / normalizer.completions
    with torch.no_grad():
        exact = log_ratio.double()  # near 0 exp(x) - x - 1 cancels to noise in float32
        divergence = torch.expm1(exact) - exact
        fresh = torch.ones_like(exact) if terms.fresh is None else terms.fresh.double()
        sums["mismatch_kl"] = float((divergence * fresh).sum())
        sums["fresh_tokens"] = float(fresh.sum())
        sums["drift_kl"] = float(divergence.sum())
        sums["clipped"] = float((bounded * terms.advantages < ratio * terms.advantages).float().sum())
        sums["capped"] = float((corrected.exp() > settings.importance_cap).float().sum())
        sums["tokens"] = float(len(log_ratio))
    return loss * normalizer.scale, sums
