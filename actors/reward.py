"""Reward actor: scores all groups of a step together and splits them over the learner's ranks."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import ray
from numpy.typing import NDArray

from actors.messages import JudgeReceipt, ProcessInfo, RewardReceipt
from rapo.algorithm.judged_grounding import judge_groups
from rapo.algorithm.partition import Share, share_out
from rapo.algorithm.scoring import score_groups
from rapo.config import Config
from rapo.explanations.grounding_judge import JUDGE_SECTION, GroundingJudge, JudgeHistory
from rapo.records import Group


class RewardScorer:
    """What it returns depends on its arguments and the configuration alone, and on what a judge
    model answers where the grounded term asks one (`rapo.reward.grounded_judge`)."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"concurrency_groups": {"health": 1}}

    def __init__(self, config: Config, history: JudgeHistory = JudgeHistory()) -> None:
        self._config = config
        self._history = history

    @ray.method(concurrency_group="health")
    def hello(self) -> ProcessInfo:
        return ProcessInfo(socket.gethostname(), os.getpid())

    @ray.method(concurrency_group="health")
    def ping(self) -> None:
        """Answers as long as the process runs."""

    @cached_property
    def _judge(self) -> GroundingJudge | None:
        # At the first step: an error of the actor's start, such as a missing key, has no words.
        if not self._config.rapo.asks_grounding_judge:
            return None
        settings, seed = self._config.rapo.reward.grounded_judge, self._config.run.seed
        return GroundingJudge(settings, self._config.image, JUDGE_SECTION, seed=seed, history=self._history)

    def score(self, rows: bool, *parts: Group | NDArray[np.uint8]) -> tuple[RewardReceipt | Share, ...]:
        """`(receipt, share of rank 0, share of rank 1, ...)` of the groups among `parts`; call with
        `num_returns = 1 + learner ranks`. `rows` says that the learner trains each completion with
        a prompt of its own. A judge model needs the encoded image of each group, in the same
        order."""
        groups = [part for part in parts if isinstance(part, Group)]
        judged = None
        if self._judge is not None:
            images = [part.tobytes() for part in parts if not isinstance(part, Group)]
            judged = judge_groups(self._judge, groups, images)
        scored, metrics = score_groups(groups, self._config.rapo.reward, None if judged is None else judged.grounded)
        shares = share_out(
            scored,
            ranks=self._config.learner.workers,
            micro_batch_groups=self._config.learner.micro_batch_groups,
            micro_batch_tokens=self._config.learner.micro_batch_tokens,
            keep_flat=self._config.rapo.flat_groups_teach,
            rows=rows,
        )
        uids = tuple(tuple(one.group.image_uid for one in share.groups) for share in shares)
        if judged is None:
            return RewardReceipt(metrics, uids), *shares
        batch = judged.batch
        asked = JudgeReceipt(batch.new, batch.used, judged.unjudged, batch.stopped)
        return RewardReceipt({**metrics, **judged.metrics}, uids, asked), *shares
