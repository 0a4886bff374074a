"""The system's own roles with the two changes that a benchmark needs: completions of one length,
rewards that vary.

A policy of random weights writes nothing that parses. Its rewards would all be 0 and its learner
would have nothing to do, so the scorer does its work and then replaces the advantages by random
ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from actors.messages import RewardReceipt
from actors.reward import RewardScorer
from actors.rollout import RolloutWorker
from rapo.algorithm.partition import Share, share_out
from rapo.algorithm.scoring import score_groups
from rapo.records import Group


class FixedLengthWorker(RolloutWorker):
    """Every completion has `policy.max_completion_tokens` tokens."""

    async def start(self, model_dir: str, version: int) -> None:
        await super().start(model_dir, version)
        training = self._sampler.training
        sampling = dataclasses.replace(training.sampling, ignore_stop=True)
        self._sampler.training = dataclasses.replace(training, sampling=sampling)


class RandomScorer(RewardScorer):
    """Scores as ever, then replaces the advantages by random ones."""

    def score(self, rows: bool, *parts: Group | NDArray[np.uint8]) -> tuple[RewardReceipt | Share, ...]:
        groups = [part for part in parts if isinstance(part, Group)]
        scored, metrics = score_groups(groups, self._config.rapo.reward)
        rng = np.random.default_rng(groups[0].step)
        random = [dataclasses.replace(s, advantages=rng.standard_normal(len(s.advantages))) for s in scored]
        shares = share_out(
            random,
            ranks=self._config.learner.workers,
            micro_batch_groups=self._config.learner.micro_batch_groups,
            keep_flat=True,
            rows=rows,
        )
        uids = tuple(tuple(s.group.image_uid for s in share.groups) for share in shares)
        return RewardReceipt(metrics, uids), *shares
