"""Scoring: parses the completions of groups and gives them rewards and advantages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rapo.algorithm.reward import rapo_rewards
from rapo.answers.parse import parse_answer
from rapo.config import RewardSettings
from rapo.records import Group, ScoredGroup


def score_groups(groups: Sequence[Group], settings: RewardSettings) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The scored groups, in order, and their metrics.

    All groups of a step are scored together, because the relative term compares every completion
    with every other image. The metrics are those of `rapo_rewards`, `invalid/<reason>` (shares of
    all completions) and `completion_tokens` (the mean).
    """
    answers = [
        [parse_answer(text, truncated=end == "length") for text, end in zip(g.texts, g.finish_reasons, strict=True)]
        for g in groups
    ]
    scores = np.array([[np.nan if a.score is None else a.score for a in row] for row in answers], dtype=np.float64)
    stds = [g.target_std for g in groups]
    rewards = rapo_rewards(
        scores,
        np.array([g.target for g in groups]),
        settings=settings,
        dataset_ids=[g.dataset for g in groups],
        # NaN marks an image without a known spread, which a soft tie takes as 0: the images of a
        # set without spreads, which may be all of a batch, tie at half.
        target_std=np.array([np.nan if s is None else s for s in stds]),
    )
    reasons = Counter(a.reason for row in answers for a in row if a.reason is not None)
    metrics = dict(rewards.metrics)
    metrics |= {f"invalid/{reason}": count / scores.size for reason, count in sorted(reasons.items())}
    metrics["completion_tokens"] = float(np.mean([len(ids) for g in groups for ids in g.token_ids]))
    scored = [ScoredGroup(group, scores[i], rewards.total[i], rewards.advantage[i]) for i, group in enumerate(groups)]
    return scored, metrics
