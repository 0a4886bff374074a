"""The system's own roles with the two changes that a benchmark needs: completions of one length,
rewards that vary.

A policy of random weights writes nothing that parses. Its rewards would all be 0 and its learner
would have nothing to do, so the scorer does its work and then replaces the advantages by random
ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import ray

from actors.reward import RewardScorer
from actors.rollout import RolloutWorker
from rapo.algorithm.partition import share_out
from rapo.algorithm.scoring import score_groups
from rapo.records import Group


@ray.remote(max_concurrency=1000)
class FixedLengthWorker(RolloutWorker.__ray_metadata__.modified_class):  # type: ignore[attr-defined, name-defined, misc]
    """Every completion has `policy.max_completion_tokens` tokens."""

    async def start(self, model_dir: str, version: int) -> dict[str, Any]:
        facts = await super().start(model_dir, version)
        self._sampler.training = dataclasses.replace(self._sampler.training, ignore_stop=True)
        return facts


@ray.remote(concurrency_groups={"health": 1})
class RandomScorer(RewardScorer.__ray_metadata__.modified_class):  # type: ignore[attr-defined, name-defined, misc]
    """Scores as ever, then draws the advantages."""

    def score(self, *groups: Group) -> tuple[Any, ...]:
        scored, metrics = score_groups(groups, self._config.rapo.reward)
        rng = np.random.default_rng(groups[0].step)
        drawn = [dataclasses.replace(s, advantages=rng.standard_normal(len(s.advantages))) for s in scored]
        shares = share_out(
            drawn,
            ranks=self._config.learner.workers,
            micro_batch_groups=self._config.learner.micro_batch_groups,
            keep_level=True,
        )
        uids = [[s.group.image_uid for s in share.groups] for share in shares]
        return {"metrics": metrics, "uids": uids}, *shares
