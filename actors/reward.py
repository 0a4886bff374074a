"""Reward actor: scores all groups of a step together and splits them over the learner's ranks."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import ClassVar

import ray

from actors.messages import ProcessInfo, RewardReceipt
from rapo.algorithm.partition import Share, share_out
from rapo.algorithm.scoring import score_groups
from rapo.config import Config
from rapo.records import Group


class RewardScorer:
    """Stateless: what it returns depends on its arguments and the configuration alone."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"concurrency_groups": {"health": 1}}

    def __init__(self, config: Config) -> None:
        self._config = config

    @ray.method(concurrency_group="health")
    def hello(self) -> ProcessInfo:
        return ProcessInfo(socket.gethostname(), os.getpid())

    @ray.method(concurrency_group="health")
    def ping(self) -> None:
        """Answers as long as the process runs."""

    def score(self, *groups: Group) -> tuple[RewardReceipt | Share, ...]:
        """`(receipt, share of rank 0, share of rank 1, ...)`; call with `num_returns = 1 + learner
        ranks`."""
        scored, metrics = score_groups(groups, self._config.rapo.reward)
        shares = share_out(
            scored,
            ranks=self._config.learner.workers,
            micro_batch_groups=self._config.learner.micro_batch_groups,
            micro_batch_tokens=self._config.learner.micro_batch_tokens,
            keep_flat=self._config.rapo.flat_groups_teach,
        )
        uids = tuple(tuple(one.group.image_uid for one in share.groups) for share in shares)
        return RewardReceipt(metrics, uids), *shares
