"""The reward actor, replaced when it dies: it holds nothing, so a step's rewards are simply
computed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from actors.reward import RewardScorer
from cluster.learner.group import Meanwhile
from cluster.remote.faults import Fault, Report
from cluster.remote.heartbeat import Heartbeat
from cluster.remote.waiting import wait_each
from rapo.config import Config
from rapo.errors import RoleError

#: Scoring a step is vectorised arithmetic on a few thousand numbers; more than this means that the
#: actor is gone.
_TIMEOUT_S = 300.0
_HANG_S = 60.0
_FAILURES = 3
_NAME = "reward actor"


class RewardClient:
    """An actor of the class `scorer`. `close` ends it."""

    def __init__(self, config: Config, scorer: Any = RewardScorer, report: Report = lambda fault: None) -> None:
        self._config = config
        self._scorer = scorer
        self._report = report
        self._start()

    def _start(self) -> None:
        self._actor: Any = self._scorer.options(num_cpus=0.5).remote(self._config)
        self._heartbeat = Heartbeat({_NAME: self._actor}, _HANG_S)
        #: Where the actor is, once it has said so.
        self.facts: dict[str, Any] = {}
        facts = self.facts
        self._actor.hello.remote().future().add_done_callback(
            lambda said: facts.update({} if said.exception() else said.result())
        )

    def score(self, groups: Sequence[Any], meanwhile: Meanwhile) -> tuple[dict[str, Any], list[Any]]:
        """A step's receipt, and a ref to each rank's share.

        Raises `RoleError` where the actor fails time and again; its kind is "data lost" where a
        group can't be had any more.
        """

        def watch(pending: Sequence[Any]) -> None:
            self._heartbeat.check()
            meanwhile(pending)

        returns = 1 + self._config.learner.workers
        failures = 0
        while True:
            receipt, *shares = self._actor.score.options(num_returns=returns).remote(*groups)
            try:
                (scored,) = wait_each([receipt], roles=[_NAME], timeout_s=_TIMEOUT_S, meanwhile=watch)
                return scored, shares
            except RoleError as error:
                failures += 1
                if error.kind == "data lost" or failures > _FAILURES:
                    raise
                self._report(
                    Fault(_NAME, "", error.kind, str(error), "replaced; the step's rewards are computed again")
                )
                self.close()
                self._start()

    def close(self) -> None:
        ray.kill(self._actor)
