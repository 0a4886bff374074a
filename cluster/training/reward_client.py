"""RewardClient: the reward actor, replaced when it dies or hangs.

- The actor holds nothing that is lost with it, so a step's rewards are simply computed again.
- The verdicts of a judge model are written down as they come, and a new actor knows them.
- Groups without a verdict are a fault. A judge model that answers nothing more ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from actors.messages import JudgeReceipt, ProcessInfo, RewardReceipt
from actors.reward import RewardScorer
from cluster.files.verdict_log import VERDICTS, VerdictLog
from cluster.remote.actors import Launch, Launcher
from cluster.remote.faults import Fault
from cluster.remote.heartbeat import Heartbeat
from cluster.remote.needs import REWARD_CPUS
from cluster.remote.waiting import Waiting, wait_each
from cluster.rollout.tasks import RolloutResult
from rapo.algorithm.partition import Share
from rapo.config import Config
from rapo.errors import FaultKind, JudgeError, RoleError

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
_JUDGE = "grounding judge"


class RewardClient:
    """An actor that `launch` starts. `out` is the folder of the stage; `report` receives the
    faults. `close` ends the actor."""

    def __init__(
        self,
        config: Config,
        out: Path,
        launch: Launch = Launcher(RewardScorer),
        report: Callable[[Fault], None] = lambda fault: None,
    ) -> None:
        self._config = config
        judge = config.rapo.reward.grounded_judge
        self._timeout_s = _TIMEOUT_S + (judge.timeout_s if config.rapo.asks_grounding_judge else 0.0)
        self._verdicts = VerdictLog(out / VERDICTS)
        self._launch = launch
        self._report = report
        self._actor: ActorHandle
        self._heartbeat: Heartbeat
        #: Whether the learner trains each completion with a prompt of its own.
        self.rows = config.learner.packing == "rows"
        #: The actor's process, None until it has answered.
        self.process: ProcessInfo | None = None
        self._start()

    def _start(self) -> None:
        actor = self._launch(self._config, self._verdicts.history(), options={"num_cpus": REWARD_CPUS})
        self._actor, self._heartbeat = actor, Heartbeat({_NAME: actor}, _HANG_S)
        self.process = None

        def answered(future: Future[ProcessInfo]) -> None:
            if self._actor is actor and future.exception() is None:
                self.process = future.result()

        actor.hello.remote().future().add_done_callback(answered)

    def score(self, batch: Sequence[RolloutResult]) -> Waiting[tuple[RewardReceipt, list[ObjectRef[Share]]]]:
        """The receipt of a step's groups, and a ref to each rank's share.

        Raises `RoleError` where the actor fails time and again; its kind is `DATA_LOST` where a
        group cannot be had any more. Raises `JudgeError` where the judge model answers nothing
        more: a step without its term would train another objective.
        """
        returns = 1 + self._config.learner.workers
        groups = [result.group for result in batch]
        images = [result.task.image for result in batch] if self._config.rapo.asks_grounding_judge else []
        failures = 0
        while True:
            receipt: ObjectRef[RewardReceipt]
            receipt, *shares = self._actor.score.options(num_returns=returns).remote(self.rows, *groups, *images)
            try:
                calls: list[ObjectRef[RewardReceipt]] = [receipt]
                scored = yield from self._heartbeat.watch(wait_each(calls, roles=[_NAME], timeout_s=self._timeout_s))
                if scored[0].judged is not None:
                    self._record(scored[0].judged, len(batch))
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

    def _record(self, judged: JudgeReceipt, groups: int) -> None:
        self._verdicts.append(judged.verdicts, judged.used)
        if judged.stopped is not None and judged.unjudged:
            raise JudgeError(
                f"the judge model of rapo.reward.grounded_judge answers nothing more: {judged.stopped}. What it answered is "
                "kept; the same command continues"
            )
        for count, problem in judged.unjudged.values():
            cause = f"{count} of {groups} groups got no verdict: {problem}"
            self._report(Fault(_JUDGE, "", FaultKind.FAILED, cause, "their grounded term is 0"))

    def close(self) -> None:
        ray.kill(self._actor)
