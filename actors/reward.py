"""Reward actor: scores all groups of a step together and splits them over the learner's ranks."""

from __future__ import annotations

import os
import socket
from typing import Any

import ray

from rapo.algorithm.partition import share_out
from rapo.algorithm.scoring import score_groups
from rapo.config import Config
from rapo.records import Group


@ray.remote(concurrency_groups={"health": 1})
class RewardScorer:
    """Stateless: what it returns depends on its arguments and the configuration alone."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @ray.method(concurrency_group="health")
    def hello(self) -> dict[str, Any]:
        """Where this actor is."""
        return {"node": socket.gethostname(), "pid": os.getpid()}

    @ray.method(concurrency_group="health")
    def ping(self) -> None:
        """Answers as long as the process runs."""

    def score(self, *groups: Group) -> tuple[Any, ...]:
        """`(receipt, share of rank 0, share of rank 1, ...)`; call with `num_returns = 1 + learner
        ranks`.

        The receipt holds `metrics`, and `uids`: of the images that each rank needs.
        """
        scored, metrics = score_groups(groups, self._config.rapo.reward)
        shares = share_out(
            scored,
            ranks=self._config.learner.workers,
            micro_batch_groups=self._config.learner.micro_batch_groups,
            keep_level=self._config.rapo.loss.kl_beta > 0.0,
        )
        uids = [[scored.group.image_uid for scored in share.groups] for share in shares]
        return {"metrics": metrics, "uids": uids}, *shares
