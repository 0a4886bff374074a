"""RunMonitor: metrics, the trace of the first steps, and the log of a training run. None of them
can end the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Self

from actors.messages import GroupReceipt
from cluster.monitoring.logs import run_id, run_log
from cluster.monitoring.telemetry import open_telemetry
from cluster.monitoring.trace import Trace
from cluster.remote.faults import Fault
from cluster.rollout.listener import WorkerEvent
from cluster.rollout.tasks import RolloutResult
from cluster.rollout.worker_handle import WorkerHandle
from cluster.training.listener import MetricsRow
from rapo.config import Config

TRACE, LOG = "trace.json", "log.jsonl"

_log = logging.getLogger("rapo.run")


class RunMonitor:
    """Receives what happens in the run of folder `run`, inside its block as a context manager."""

    def __init__(self, config: Config, run: Path, first_step: int, warn: Callable[[str], None]) -> None:
        self._run = run
        self._step = first_step
        self._telemetry = open_telemetry(config, run, first_step, warn)
        self._trace = Trace(run / "rapo" / TRACE, config.telemetry.trace_steps)
        self._stack = ExitStack()
        self._receipts: list[GroupReceipt] = []

    def __enter__(self) -> Self:
        self._stack.enter_context(run_log(self._run / "rapo" / LOG, run_id(self._run)))
        self._stack.callback(self._telemetry.close)
        _log.info("begins", extra={"step": self._step})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            _log.info("ends", extra={"step": self._step})
        else:
            _log.error("ends: %s", error, extra={"step": self._step, "kind": type(error).__name__})
        self._stack.close()

    def step(self, row: MetricsRow) -> None:
        """A row of metrics.jsonl, when the step or validation that it describes has just ended."""
        self._telemetry.groups(self._receipts)
        self._receipts = []
        self._telemetry.step(row)
        step, parts = row["step"], row["seconds"]
        assert isinstance(step, int)
        assert isinstance(parts, Mapping)
        self._step = step
        self._spans(parts, row)
        text = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items())
        _log.info(text, extra={"step": self._step, "seconds": sum(parts.values())})
        if "validation" not in row:
            self._trace.end_step()

    def _spans(self, parts: Mapping[str, float], row: MetricsRow) -> None:
        """The parts of a step follow each other and end now."""
        start = time.time() - sum(parts.values())
        for part, seconds in parts.items():
            self._trace.span("controller", part, start, seconds, step=self._step)
            if part == "reward":
                self._trace.span("reward actor", "score", start, seconds, step=self._step)
            if part == "learner":
                worked = row.get("learner_busy_s")
                busy = min(seconds, worked) if isinstance(worked, float) else seconds
                self._trace.span("learner ranks", "step", start + seconds - busy, busy, step=self._step)
            start += seconds

    def sampled(self, result: RolloutResult) -> None:
        """A group that has just come."""
        receipt = result.receipt
        self._receipts.append(receipt)
        facts = {"step": result.task.step, "version": receipt.version, "tokens": receipt.tokens}
        self._trace.ended(receipt.worker, result.task.record.uid, receipt.seconds, **facts)

    def worker(self, event: WorkerEvent, worker: WorkerHandle) -> None:
        """A worker's event. The load of one that has just loaded began at `times["load"]`."""
        facts = {"role": worker.role, "node": worker.node, "version": worker.weight_version, "step": self._step}
        if event is WorkerEvent.LOADED:
            began = worker.times.get("load", time.time())
            self._trace.span(worker.role, f"load version {worker.weight_version}", began, time.time() - began)
            _log.debug("loaded", extra=facts)
        else:
            _log.info("%s", event, extra=facts)

    def state(self, state: Mapping[str, object]) -> None:
        """What was written to state.json."""
        self._telemetry.fleet(state)

    def fault(self, fault: Fault) -> None:
        row = asdict(fault)
        self._telemetry.fault(row)
        facts = {name: row[name] for name in ("role", "node", "kind", "cause", "action")}
        _log.warning("%s", fault, extra={**facts, "step": self._step})
