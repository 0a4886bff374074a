"""RewardClient: the reward actor, replaced when it dies or hangs.

The actor holds nothing, so a step's rewards are simply computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ray

from actors.messages import ProcessInfo, RewardReceipt
from actors.reward import RewardScorer
from cluster.remote.actors import Launch, Launcher
from cluster.remote.faults import Fault
from cluster.remote.heartbeat import Heartbeat
from cluster.remote.needs import REWARD_CPUS
from cluster.remote.waiting import Waiting, wait_each
from rapo.algorithm.partition import Share
from rapo.config import Config
from rapo.errors import FaultKind, RoleError
from rapo.records import Group

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ray import ObjectRef
    from ray.actor import ActorHandle

#: Scoring a step is vectorised arithmetic on a few thousand numbers; more than this means that the
#: actor is gone.
_TIMEOUT_S = 300.0
_HANG_S = 60.0
_FAILURES = 3
_NAME = "reward actor"


class RewardClient:
    """An actor that `launch` starts. `report` receives the faults. `close` ends it."""

    def __init__(
        self,
        config: Config,
        launch: Launch = Launcher(RewardScorer),
        report: Callable[[Fault], None] = lambda fault: None,
    ) -> None:
        self._config = config
        self._launch = launch
        self._report = report
        self._actor: ActorHandle
        self._heartbeat: Heartbeat
        #: The actor's process, None until it has answered.
        self.process: ProcessInfo | None = None
        self._start()

    def _start(self) -> None:
        actor = self._launch(self._config, options={"num_cpus": REWARD_CPUS})
        self._actor, self._heartbeat = actor, Heartbeat({_NAME: actor}, _HANG_S)
        self.process = None

        def answered(future: Future[ProcessInfo]) -> None:
            if self._actor is actor and future.exception() is None:
                self.process = future.result()

        actor.hello.remote().future().add_done_callback(answered)

    def score(self, groups: Sequence[ObjectRef[Group]]) -> Waiting[tuple[RewardReceipt, list[ObjectRef[Share]]]]:
        """A step's receipt, and a ref to each rank's share.

        Raises `RoleError` where the actor fails time and again; its kind is `DATA_LOST` where a
        group cannot be had any more.
        """
        returns = 1 + self._config.learner.workers
        failures = 0
        while True:
            receipt: ObjectRef[RewardReceipt]
            receipt, *shares = self._actor.score.options(num_returns=returns).remote(*groups)
            try:
                calls: list[ObjectRef[RewardReceipt]] = [receipt]
                scored = yield from self._heartbeat.watch(wait_each(calls, roles=[_NAME], timeout_s=_TIMEOUT_S))
                return scored[0], shares
            except RoleError as error:
                failures += 1
                if error.kind is FaultKind.DATA_LOST or failures > _FAILURES:
                    raise
                self._report(
                    Fault(_NAME, "", error.kind, str(error), "replaced; the step's rewards are computed again")
                )
                self.close()
                self._start()

    def close(self) -> None:
        ray.kill(self._actor)
