"""RunRecorder: writes down what a RAPO stage reports, and passes it on to the user.

- `rapo/faults.jsonl` and `rapo/fleet.jsonl` get a row for each fault and for each worker's event,
  as long as the fleet lives.
- Metrics, trace, log, `rapo/state.json` and the user's lines are of the training alone: inside
  `recording`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from cluster.files.jsonl import append_jsonl
from cluster.monitoring.monitor import RunMonitor
from cluster.monitoring.run_state_writer import RunStateWriter
from cluster.remote.faults import FAULTS, Fault
from cluster.rollout.listener import WorkerEvent
from cluster.rollout.tasks import RolloutResult
from cluster.rollout.worker_handle import WorkerHandle
from cluster.training.controller import Controller
from cluster.training.listener import MetricsRow, TrainingListener
from rapo.config import Config

FLEET = "fleet.jsonl"


class RunRecorder(TrainingListener):
    """The listener of the RAPO stage in the folder `out`. `show_note` and `show_progress` are the
    user's display."""

    def __init__(
        self,
        config: Config,
        out: Path,
        show_note: Callable[[str], None],
        show_progress: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self._config = config
        self._out = out
        self._show_note = show_note
        self._show_progress = show_progress
        self._monitor: RunMonitor | None = None
        self._state: RunStateWriter | None = None
        self._step = 0

    @contextmanager
    def recording(self, first_step: int) -> Iterator[None]:
        """Inside, the training that begins after `first_step` is recorded."""
        monitor = RunMonitor(self._config, self._out.parent, first_step, self._show_note)
        self._step = first_step
        with monitor, RunStateWriter(self._out, monitor.state) as state:
            self._monitor, self._state = monitor, state
            try:
                yield
            finally:
                self._monitor = self._state = None

    def follow(self, controller: Controller) -> None:
        """Show the status of `controller` from now on."""
        if self._state is not None:
            self._state.follow(controller)

    def note(self, text: str) -> None:
        if self._monitor is not None:
            self._show_note(text)

    def progress(self, step: int, figures: Mapping[str, float]) -> None:
        self._step = step
        self._show_progress(step, figures)

    def sampled(self, result: RolloutResult) -> None:
        if self._monitor is not None:
            self._monitor.sampled(result)

    def step(self, row: MetricsRow) -> None:
        if self._monitor is not None:
            self._monitor.step(row)

    def changed(self) -> None:
        if self._state is not None:
            self._state.write()

    def fault(self, fault: Fault) -> None:
        append_jsonl(self._out / FAULTS, {"step": self._step, **asdict(fault)})
        if self._monitor is not None:
            self._monitor.fault(fault)
        self.note(str(fault))

    def worker(self, event: WorkerEvent, worker: WorkerHandle) -> None:
        if self._monitor is not None:
            self._monitor.worker(event, worker)
        if event is WorkerEvent.LOADED:  # every worker at every step
            return
        row: dict[str, object] = {"time": time.time(), "event": event, "worker": worker.role, "node": worker.node}
        if event is WorkerEvent.ROUTED:
            row["seconds"] = worker.joining()
        append_jsonl(self._out / FLEET, row)
        self.changed()
