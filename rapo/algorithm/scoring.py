"""Scoring: parses the completions of groups and gives them rewards and advantages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rapo.algorithm.answer_path import path_moments
from rapo.algorithm.grounding import grounding
from rapo.algorithm.reward import rapo_rewards
from rapo.answers.parse import Answer, parse_answer
from rapo.arrays import Floats
from rapo.config import RewardSettings
from rapo.records import Group, ScoredGroup


def score_groups(
    groups: Sequence[Group], settings: RewardSettings, grounded: Floats | None = None
) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The scored groups, in order, and their metrics. `grounded` `(N, K)` is the grounded term of a
    judge model; without it the images' measures give it.

    All groups of a step are scored together, because the relative term compares every completion
    with every other image. The metrics are those of `rapo_rewards`, `invalid/<reason>` (shares of
    all completions) and `completion_tokens` (the mean).
    """
    answers = [
        [parse_answer(text, truncated=end == "length") for text, end in zip(g.texts, g.finish_reasons, strict=True)]
        for g in groups
    ]
    scores, within = _scores(groups, answers, settings)
    stds = [g.target_std for g in groups]
    if grounded is None:
        grounded = _grounded(groups, answers) if settings.weight_grounded else np.zeros_like(scores)
    rewards = rapo_rewards(
        scores,
        np.array([g.target for g in groups]),
        settings=settings,
        dataset_ids=[g.dataset for g in groups],
        # NaN marks an image without a known spread, which a soft tie takes as 0: the images of a
        # set without spreads, which may be all of a batch, tie at half.
        target_std=np.array([np.nan if s is None else s for s in stds]),
        within=within,
        grounded=grounded,
    )
    reasons = Counter(a.reason for row in answers for a in row if a.reason is not None)
    metrics = dict(rewards.metrics)
    metrics |= {f"invalid/{reason}": count / scores.size for reason, count in sorted(reasons.items())}
    metrics["completion_tokens"] = float(np.mean([len(ids) for g in groups for ids in g.token_ids]))
    scored = [ScoredGroup(group, scores[i], rewards.total[i], rewards.advantage[i]) for i, group in enumerate(groups)]
    return scored, metrics


def _scores(
    groups: Sequence[Group], answers: Sequence[Sequence[Answer]], settings: RewardSettings
) -> tuple[Floats, Floats]:
    """Scores `(N, K)`, NaN where invalid, and the variance `(N, K)` of the answers of which each is
    the expectation."""
    scores = np.array([[np.nan if a.score is None else a.score for a in row] for row in answers], dtype=np.float64)
    within = np.zeros_like(scores)
    if settings.score == "expected":
        known = [
            (i, k, node)
            for i, group in enumerate(groups)
            for k, node in enumerate(group.answers or ())
            if node is not None and not np.isnan(scores[i, k])
        ]
        places = [i for i, _, _ in known], [k for _, k, _ in known]
        scores[places], within[places] = path_moments([node for _, _, node in known])
    return scores, within


def _grounded(groups: Sequence[Group], answers: Sequence[Sequence[Answer]]) -> Floats:
    """The grounded term `(N, K)`; 0 for a group without measures."""
    return np.array(
        [
            [0.0 if group.measured is None else grounding(a.rationale, group.measured) for a in row]
            for group, row in zip(groups, answers, strict=True)
        ]
    )
