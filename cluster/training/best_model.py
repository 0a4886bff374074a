"""BestModel: the model that a run ends with, the best by validation SRCC or the last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.waiting import finish
from cluster.remote.weight_source import WeightVersion
from rapo.config import Config


@dataclass(frozen=True, slots=True)
class BestState:
    """The best model so far: its validation SRCC and its step; None before the first."""

    srcc: float | None
    step: int | None


class BestModel:
    """Keeps the model of the best validation result in `folder`/step-*; before any training that is
    `start_dir` itself."""

    def __init__(self, config: Config, learners: RecoveringLearnerGroup, start_dir: Path, folder: Path) -> None:
        self._by_validation = config.rapo.select == "best"
        self._learners = learners
        self._start_dir = start_dir
        self._folder = folder
        self._srcc = float("-inf")
        self._step: int | None = None

    def consider(self, srcc: float, step: int, weights: WeightVersion | None) -> None:
        """Keep the model of `step` (`weights` None: the one that training started from) if it is
        the best so far."""
        if self._by_validation and srcc > self._srcc:
            if weights is not None:
                self._save(step, weights)
            self._srcc, self._step = srcc, step

    def select(self, step: int, last: WeightVersion) -> tuple[Path, int]:
        """The selected model's folder and step. Without a validation result there is nothing to
        choose by: the last."""
        if self._step is None:
            return self._save(step, last), step
        folder = self._start_dir if self._step == 0 else self._path(self._step)
        self.prune(())
        return folder, self._step

    def state(self) -> BestState:
        return BestState(self._srcc if self._step is not None else None, self._step)

    def restore(self, state: BestState) -> None:
        if state.srcc is None or state.step is None:
            return
        if state.step == 0 or self._path(state.step).is_dir():
            self._srcc, self._step = state.srcc, state.step

    def prune(self, saved: Iterable[BestState]) -> None:
        """Remove the models that are neither the best now nor the best of a `saved` state, to which
        the run may go back."""
        kept = {self._step, *(state.step for state in saved)}
        for folder in self._folder.glob("step-*"):
            if int(folder.name.removeprefix("step-")) not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _save(self, step: int, weights: WeightVersion) -> Path:
        folder = self._path(step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        finish(self._learners.save_model(folder, self._start_dir, weights))
        return folder

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"
