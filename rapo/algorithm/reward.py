"""Reward: RAPO's rewards and advantages from the scores of N images x K completions, in float64.

With o_ik the k-th score of image i, mu_j and var_j mean and unbiased variance of image j's valid
scores, and s_i the human score in [0, 1] (Aes-R1, arXiv 2509.21871, Eq. 3-12):

    p_ik,j      = Phi((o_ik - mu_j) / sqrt(var_i + var_j + gamma))
    relative_ik = mean over the opponents j of  sqrt(c_ij p_ik,j) + sqrt((1 - c_ij) (1 - p_ik,j))
    absolute_ik = exp(-(o_ik - s_i)^2 / (2 sigma^2))
    total_ik    = w_absolute absolute_ik + w_relative relative_ik + w_format
                  + w_grounded grounded_ik
    advantage   = (total - group mean) / (group sd + eps)

The grounded term is no part of the paper (`rapo.algorithm.grounding`). Where o_ik is the expected
answer of a rationale instead of one sampled answer, the mean variance of the answers within their
rationales is added to var_i: by the law of total variance it is then, up to sampling error, what it
is with sampled answers.

c_ij is 1 where s_i > s_j and 0 where s_i < s_j. Differences from the released code:

- An invalid completion earns 0 on every term and is left out of its image's mu and var.
- Opponents are the other images of the same data set that have a valid completion.
- A tie of labels counts half (`ties`).
- Every term lies in [0, 1]: no epsilon is added, and nothing is rounded.

`RewardSettings(preset="upstream")` gives the released code's numbers instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from rapo.arrays import Floats
from rapo.config import RewardSettings
from rapo.errors import DataError

__all__ = ["RewardSettings", "Rewards", "rapo_rewards"]

Mask = NDArray[np.bool_]

#: A batch's label sd below this (of two nearly equal labels, for example) says nothing about the
#: spread of its data set.
MIN_SPREAD = 0.02

# The N x K x N comparisons are made in blocks of about this many elements, so that they stay in
# cache and memory does not grow with N.
_BLOCK_ELEMENTS = 1 << 16

# Totals that differ by less than this within a group differ by rounding only.
_ROUNDING = 1e-12

_UPSTREAM_ABSOLUTE_EPS = 1e-5
_UPSTREAM_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Rewards:
    """Finite arrays `(N, K)`: the terms in [0, 1] before weighting, their weighted total, and the
    advantage.

    `metrics` holds reward_mean, absolute_mean, relative_mean, format_mean and grounded_mean (over
    all completions, invalid ones as 0), parse_rate, no_opponent (the number of images with a valid
    completion but no opponent), zero_spread (the share of groups whose completions all earn the
    same, which have no gradient) and ties (the share of compared pairs with equal labels).
    """

    absolute: Floats
    relative: Floats
    format: Floats
    grounded: Floats
    total: Floats
    advantage: Floats
    metrics: dict[str, float]


def rapo_rewards(
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    settings: RewardSettings = RewardSettings(),
    dataset_ids: Sequence[str] | NDArray | None = None,
    target_std: ArrayLike | None = None,
    within: ArrayLike = 0.0,
    grounded: ArrayLike = 0.0,
) -> Rewards:
    """The rewards of one batch.

    `scores` is `(N, K)`, NaN for an invalid completion; a score outside [0, 1] counts as invalid
    too. `targets` is `(N,)` in [0, 1]. `dataset_ids` `(N,)` names each image's data set; None means
    one set for all. `target_std` `(N,)`, the raters' sd on the same scale, NaN where unknown, is
    read with `ties="soft"` only: c_ij = Phi((s_i - s_j) / sqrt(std_i^2 + std_j^2 + gamma)). With
    `sigma_unit="spread"`, sigma is the fraction times the sd of the data set's labels in this batch
    (of the whole batch where the set has one image; at least `MIN_SPREAD`). `within` `(N, K)` is
    the variance of the answers of which a score is the expectation, `grounded` `(N, K)` the
    grounded term in [0, 1]; both are ignored where the score is invalid.

    Preset "upstream" gives the released code's numbers on valid scores. A tie of labels is a win in
    both directions. Gamma is also added inside both square roots of the relative term, which then
    lies in [.002, 1.001]. 1e-5 is added to the absolute term, and both terms are rounded to 4
    decimals before they are summed. All images of the batch are compared, whatever their data set.
    (The released code computes in float32, so that a last decimal may differ.)

    Memory beyond the results is about 30 MB for any N. Raises `DataError` for shapes or targets
    that do not fit.
    """
    o, s, std = _checked(scores, targets, target_std, settings)
    upstream = settings.preset == "upstream"
    with np.errstate(invalid="ignore"):
        valid = (o >= 0.0) & (o <= 1.0)
    o = np.where(valid, o, 0.0)
    inner, fit = (np.where(valid, np.asarray(part, np.float64), 0.0) for part in (within, grounded))
    datasets = _partition(dataset_ids, len(s))

    sigma = _sigma(settings, datasets, s)[:, None]
    absolute = np.exp(-0.5 * np.square((o - s[:, None]) / sigma))
    relative = np.zeros_like(o)
    no_opponent = pairs = ties = 0
    for members in [np.arange(len(s))] if upstream else datasets.values():
        # An image without a valid completion has no mean: it earns no relative reward and is no
        # opponent.
        rows = members[valid[members].any(axis=1)]
        relative[rows], opponents = _relative(o[rows], valid[rows], s[rows], std[rows], inner[rows], settings)
        no_opponent += int(np.count_nonzero(opponents == 0))
        pairs += len(rows) * (len(rows) - 1)
        ties += _count_ties(s[rows])
    if upstream:
        absolute = np.round(absolute + _UPSTREAM_ABSOLUTE_EPS, _UPSTREAM_DECIMALS)
        relative = np.round(relative, _UPSTREAM_DECIMALS)
    absolute, relative = np.where(valid, absolute, 0.0), np.where(valid, relative, 0.0)
    well_formed = valid.astype(np.float64)
    total = (
        settings.weight_absolute * absolute
        + settings.weight_relative * relative
        + settings.weight_format * well_formed
        + settings.weight_grounded * fit
    )
    advantage, flat = _advantage(total, settings)
    metrics = {
        "reward_mean": _mean(total),
        "absolute_mean": _mean(absolute),
        "relative_mean": _mean(relative),
        "format_mean": _mean(well_formed),
        "grounded_mean": _mean(fit),
        "parse_rate": _mean(valid),
        "no_opponent": float(no_opponent),
        "zero_spread": _mean(flat),
        "ties": ties / pairs if pairs else 0.0,
    }
    return Rewards(absolute, relative, well_formed, fit, total, advantage, metrics)


def _relative(
    o: Floats, valid: Mask, s: Floats, std: Floats, within: Floats, settings: RewardSettings
) -> tuple[Floats, NDArray[np.int64]]:
    """The relative term `(M, K)` of M images that are all compared with each other, and the number
    of their opponents `(M,)`.

    `o` holds 0 where invalid; each image has a valid score.
    """
    size, completions = o.shape
    mean, variance = _moments(o, valid)
    variance += within.sum(axis=1) / valid.sum(axis=1)
    relative = np.zeros_like(o)
    opponents = np.zeros(size, np.int64)
    step = max(1, _BLOCK_ELEMENTS // max(1, size * completions))
    for start in range(0, size, step):
        rows = np.arange(start, min(start + step, size))
        counted = rows[:, None] != np.arange(size)
        if settings.ties == "drop":
            counted &= s[rows, None] != s
        p = o[rows, :, None] - mean
        p /= np.sqrt(variance[rows, None] + variance + settings.gamma)[:, None, :]
        ndtr(p, out=p)
        fidelity = _fidelity(p, s[rows, None], s, std[rows, None], std, settings)
        fidelity *= counted[:, None, :]
        opponents[rows] = counted.sum(axis=1)
        relative[rows] = fidelity.sum(axis=2) / np.maximum(opponents[rows], 1)[:, None]
    return relative, opponents


def _fidelity(p: Floats, s_i: Floats, s_j: Floats, std_i: Floats, std_j: Floats, settings: RewardSettings) -> Floats:
    """sqrt(c p) + sqrt((1 - c)(1 - p)) for `p` `(B, K, M)`, which is overwritten. `s_i` and `std_i`
    are `(B, 1)`, `s_j` and `std_j` `(M,)`."""
    if settings.preset == "upstream":
        c = (s_i >= s_j).astype(np.float64)[:, None, :]
        return np.sqrt(c * p + settings.gamma) + np.sqrt((1.0 - c) * (1.0 - p) + settings.gamma)
    if settings.ties == "soft":
        c = ndtr((s_i - s_j) / np.sqrt(np.square(std_i) + np.square(std_j) + settings.gamma))[:, None, :]
        return np.sqrt(c * p) + np.sqrt((1.0 - c) * (1.0 - p))
    half = np.nonzero(s_i == s_j) if settings.ties == "half" else None
    if half is not None:
        row, column = half
        tied = p[row, :, column]
        tied = np.sqrt(0.5 * tied) + np.sqrt(0.5 * (1.0 - tied))
    # Where c is 0 or 1, one of the two roots is 0 and the other that of |p - (1 - c)|: one root
    # suffices.
    p -= (s_i < s_j)[:, None, :]
    np.sqrt(np.abs(p, out=p), out=p)
    if half is not None:
        p[row, :, column] = tied
    return p


def _moments(o: Floats, valid: Mask) -> tuple[Floats, Floats]:
    """Mean and unbiased variance `(M,)` of each image's valid scores; the variance of a single one
    is 0."""
    count = valid.sum(axis=1)
    mean = np.where(valid, o, 0.0).sum(axis=1) / np.maximum(count, 1)
    squares = np.where(valid, np.square(o - mean[:, None]), 0.0).sum(axis=1)
    return mean, squares / np.maximum(count - 1, 1)


def _advantage(total: Floats, settings: RewardSettings) -> tuple[Floats, Mask]:
    """Totals `(N, K)` normalised within each group, and whether each group `(N,)` has no spread. A
    group without spread gets exactly 0."""
    flat = np.ptp(total, axis=1) <= _ROUNDING
    centred = total - total.mean(axis=1, keepdims=True)
    if settings.advantage == "std":
        sd = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / max(total.shape[1] - 1, 1))
        centred /= np.where(flat[:, None], 1.0, sd + settings.advantage_eps)
    return np.where(flat[:, None], 0.0, centred), flat


def _sigma(settings: RewardSettings, datasets: dict[str, NDArray[np.int64]], s: Floats) -> Floats:
    """The width of the absolute term for each image, `(N,)`, on the score scale."""
    sigma = np.empty_like(s)
    for name, rows in datasets.items():
        if isinstance(settings.sigma, dict) and name not in settings.sigma:
            raise DataError(
                f"reward.sigma gives {sorted(settings.sigma)} but not data set {name!r}; add it, or give one number"
            )
        value = settings.sigma[name] if isinstance(settings.sigma, dict) else settings.sigma
        if settings.sigma_unit == "spread":
            labels = s[rows] if len(rows) > 1 else s
            value *= max(float(labels.std(ddof=1)) if len(labels) > 1 else 0.0, MIN_SPREAD)
        sigma[rows] = value
    return sigma


def _partition(dataset_ids: Sequence[str] | NDArray | None, size: int) -> dict[str, NDArray[np.int64]]:
    """The rows of each data set; one set without a name where no ids are given."""
    if dataset_ids is None:
        return {"": np.arange(size)}
    if len(dataset_ids) != size:
        raise DataError(f"{len(dataset_ids)} dataset_ids for {size} images; give one for each")
    names, index = np.unique(np.asarray(dataset_ids, dtype=str), return_inverse=True)
    return {str(name): np.flatnonzero(index == number) for number, name in enumerate(names)}


def _checked(
    scores: ArrayLike, targets: ArrayLike, target_std: ArrayLike | None, settings: RewardSettings
) -> tuple[Floats, Floats, Floats]:
    """Scores, targets and their sd as float64 arrays; an unknown sd is 0."""
    o, s = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    if o.ndim != 2 or 0 in o.shape:
        raise DataError(f"scores must be (images, completions), at least one of each, not {o.shape}")
    if s.shape != o.shape[:1]:
        raise DataError(f"targets must be {o.shape[:1]}, one for each row of scores, not {s.shape}")
    if not np.all((s >= 0.0) & (s <= 1.0)):
        bad = int(np.flatnonzero(~((s >= 0.0) & (s <= 1.0)))[0])
        raise DataError(f"target {s[bad]} of image {bad} is not in [0, 1]; normalise the labels first")
    if target_std is None:
        if settings.ties == "soft":
            raise DataError(
                "reward.ties 'soft' needs the raters' sd of each label; this data set gives none: use 'half'"
            )
        return o, s, np.zeros_like(s)
    std = np.asarray(target_std, np.float64)
    if std.shape != s.shape or np.any(std < 0.0):
        raise DataError(f"target_std must be {s.shape}, not negative, NaN where unknown")
    return o, s, np.nan_to_num(std, nan=0.0)


def _count_ties(s: Floats) -> int:
    """The number of ordered pairs of different images with equal labels."""
    counts = np.unique(s, return_counts=True)[1]
    return int((counts * (counts - 1)).sum())


def _mean(values: NDArray) -> float:
    return float(values.mean())
