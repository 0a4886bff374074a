"""Policy loss: ratios, clip bounds, cap, normalisation and KL term, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rapo.config import LossConfig
from rapo.policy.loss import AnswerTerms, Normalizer, TokenTerms, policy_loss

LENGTHS = (3, 1, 4)
NORMALIZATIONS = ("sequence", "token", "constant")


def make(log_ratio=0.0, advantages=(1.0, -2.0, 0.5), lengths=LENGTHS, reference=None, seed=0):
    """Terms with a leaf for the log-probs; `log_ratio` is a number or one per token."""
    count = sum(lengths)
    behaviour = -torch.rand(count, generator=torch.Generator().manual_seed(seed)) - 0.5
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    log_probs = (behaviour + torch.as_tensor(log_ratio)).requires_grad_()
    return TokenTerms(
        log_probs, behaviour, torch.tensor(advantages)[sequence], sequence, torch.tensor(lengths),
        None if reference is None else log_probs.detach() + reference,
    )  # fmt: skip


def whole(lengths=LENGTHS, scale=1.0):
    return Normalizer(len(lengths), sum(lengths), max_tokens=10, scale=scale)


def gradient(terms, settings=None, normalizer=None):
    loss, sums = policy_loss(terms, settings or LossConfig(), normalizer or whole())
    loss.backward()
    return loss.item(), terms.log_probs.grad, sums


def test_at_ratio_one_it_is_the_plain_policy_gradient():
    terms = make()
    loss, grad, sums = gradient(terms)
    assert loss == pytest.approx(-(1.0 - 2.0 + 0.5) / 3)
    per_token = -terms.advantages / terms.lengths[terms.sequence] / 3
    torch.testing.assert_close(grad, per_token)
    assert sums == {
        "kl": 0.0, "mismatch_kl": pytest.approx(0.0, abs=1e-6), "drift_kl": pytest.approx(0.0, abs=1e-6),
        "clipped": 0.0, "capped": 0.0, "tokens": 8.0, "fresh_tokens": 8.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.27, 1.0, True),
        (1.29, 1.0, False),
        (0.5, 1.0, True),
        (0.81, -1.0, True),
        (0.79, -1.0, False),
        (1.5, -1.0, True),
    ],
)
def test_each_clip_bound_binds_on_one_side_only(ratio, advantage, moves):
    """Bounds 1 - 0.2 and 1 + 0.28: past the bound in its advantage's direction a token has no
    gradient."""
    loss, grad, sums = gradient(make(math.log(ratio), (advantage,), (1,)), normalizer=whole((1,)))
    assert bool(grad.abs().sum() > 0) is moves
    bound = ratio if moves else min(max(ratio, 0.8), 1.28)
    assert loss == pytest.approx(-bound * advantage, rel=1e-5)
    assert sums["clipped"] == float(not moves)


def test_the_importance_cap_bounds_a_negative_advantage():
    settings = LossConfig(importance_cap=3.0)
    below, grad_below, _ = gradient(make(math.log(2.9), (-1.0,), (1,)), settings, whole((1,)))
    above, grad_above, sums = gradient(make(math.log(50.0), (-1.0,), (1,)), settings, whole((1,)))
    assert below == pytest.approx(2.9, rel=1e-5)
    assert grad_below.item() == pytest.approx(2.9, rel=1e-5)
    assert above == pytest.approx(3.0)
    assert grad_above.item() == 0.0
    assert sums["mismatch_kl"] == pytest.approx(50.0 - math.log(50.0) - 1.0, rel=1e-4), "the metric is not capped"


def test_each_normalisation_divides_by_its_own_count():
    ones = {"advantages": (-1.0, -1.0, -1.0)}  # at ratio 1 each token then adds exactly 1
    values = {n: gradient(make(**ones), LossConfig(normalization=n))[0] for n in NORMALIZATIONS}
    assert values == pytest.approx({"sequence": 1.0, "token": 1.0, "constant": 8 / 30})
    uneven = {"advantages": (-1.0, 0.0, 0.0)}
    values = {n: gradient(make(**uneven), LossConfig(normalization=n))[0] for n in NORMALIZATIONS}
    assert values == pytest.approx({"sequence": 1 / 3, "token": 3 / 8, "constant": 3 / 30})


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_any_split_into_micro_batches_gives_the_same_gradient(normalization):
    settings = LossConfig(normalization=normalization, kl_beta=0.1)
    ratios = torch.linspace(-0.4, 0.6, 8)
    together = make(ratios, reference=0.3)
    total, expected, sums = gradient(together, settings)
    parts, losses, counted = [], 0.0, dict.fromkeys(sums, 0.0)
    for first, last in ((0, 1), (1, 3)):
        chosen = (together.sequence >= first) & (together.sequence < last)
        log_probs = together.log_probs.detach()[chosen].requires_grad_()
        part = TokenTerms(
            log_probs,
            together.behaviour[chosen],
            together.advantages[chosen],
            together.sequence[chosen] - first,
            together.lengths[first:last],
            together.reference[chosen],
        )
        loss, grad, part_sums = gradient(part, settings)
        losses += loss
        parts.append(grad)
        counted = {key: counted[key] + part_sums[key] for key in counted}
    torch.testing.assert_close(torch.cat(parts), expected)
    assert losses == pytest.approx(total, rel=1e-5)
    assert counted == pytest.approx(sums, rel=1e-5)


def test_scale_undoes_the_averaging_over_ranks():
    assert gradient(make(), normalizer=whole(scale=4.0))[0] == pytest.approx(4 * gradient(make())[0])


def test_kl_is_zero_at_the_reference_and_grows_away_from_it():
    settings = LossConfig(kl_beta=0.5)
    plain, plain_gradient, _ = gradient(make())
    equal, equal_gradient, sums = gradient(make(reference=0.0), settings)
    assert sums["kl"] == 0.0
    assert equal == pytest.approx(plain)
    torch.testing.assert_close(equal_gradient, plain_gradient)
    for difference in (-0.3, 0.3):
        away, away_gradient, sums = gradient(make(reference=difference), settings)
        k3 = math.exp(difference) - difference - 1.0
        assert sums["kl"] == pytest.approx(8 * k3, rel=1e-4)
        assert away == pytest.approx(plain + 0.5 * k3, rel=1e-4)
        # Descent raises the log-probs that lie below the reference, and lowers those above.
        assert torch.all(torch.sign(away_gradient - plain_gradient) == -math.copysign(1.0, difference))


def test_without_beta_the_reference_is_ignored():
    loss, _, sums = gradient(make(reference=1.0), LossConfig(kl_beta=0.0))
    assert loss == pytest.approx(gradient(make())[0])
    assert sums["kl"] == 0.0


def test_mismatch_kl_is_the_k3_estimate():
    ratios = torch.tensor([0.1, -0.2, 0.0, 0.3, -0.4, 0.0, 0.2, 0.1])
    _, _, sums = gradient(make(ratios))
    assert sums["mismatch_kl"] == pytest.approx(float((ratios.exp() - ratios - 1).sum()), rel=1e-4)


def test_answers_are_trained_by_their_labels_alone():
    plain = make(reference=0.3)
    characters = torch.log_softmax(torch.randn(2, 12, generator=torch.Generator().manual_seed(1)), 1).requires_grad_()
    labels = torch.zeros(2, 12)
    labels[0, 3], labels[1, 7] = 1.0, 1.0
    apart = replace(plain, answers=AnswerTerms(torch.tensor([1, 6]), characters, labels))
    settings = LossConfig(kl_beta=0.5, answer_weight=0.25)
    loss, grad, _ = gradient(apart, settings)
    assert grad[[1, 6]].tolist() == [0.0, 0.0], "neither advantage nor KL acts on an answer's token"
    assert bool((grad[[0, 2, 3, 4, 5, 7]] != 0).all())
    torch.testing.assert_close(characters.grad, -0.25 * labels / len(LENGTHS))
    base, _, _ = gradient(replace(make(reference=0.3)), settings)
    entropy = -(characters[0, 3] + characters[1, 7]).item()
    removed = sum(float(per_token(plain, settings)[i]) / LENGTHS[int(plain.sequence[i])] for i in (1, 6)) / 3
    assert loss == pytest.approx(base - removed + 0.25 * entropy / 3, rel=1e-5)


def per_token(terms, settings):
    """The loss of each token at ratio 1."""
    difference = terms.reference - terms.log_probs.detach()
    return -terms.advantages + settings.kl_beta * (torch.exp(difference) - difference - 1)
