"""Everything that watches a training run: metrics, the trace of its first steps, and its log. None
of it can end the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from cluster.monitoring.logs import run_id, run_log
from cluster.monitoring.telemetry import open_telemetry
from cluster.monitoring.trace import Trace
from cluster.remote.faults import Fault
from cluster.rollout.tasks import RolloutResult
from cluster.rollout.worker_handle import WorkerHandle
from rapo.config import Config

TRACE, LOG = "trace.json", "log.jsonl"

_log = logging.getLogger("rapo.run")


class RunMonitor:
    """Told of what happens in the run of folder `run`. As a context manager it is at work inside
    the block."""

    def __init__(self, config: Config, run: Path, first_step: int, warn: Callable[[str], None]) -> None:
        self._run = run
        self._step = first_step
        self._telemetry = open_telemetry(config, run, first_step, warn)
        self._trace = Trace(run / "rapo" / TRACE, config.telemetry.trace_steps)
        self._stack = ExitStack()
        self._receipts: list[dict[str, Any]] = []

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

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl, when what it tells of has just ended."""
        self._telemetry.groups(self._receipts)
        self._receipts = []
        self._telemetry.step(row)
        self._step = row["step"]
        parts: Mapping[str, float] = row["seconds"]
        self._spans(parts, row)
        said = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items())
        _log.info(said, extra={"step": self._step, "seconds": sum(parts.values())})
        if "validation" not in row:
            self._trace.end_step()

    def _spans(self, parts: Mapping[str, float], row: Mapping[str, Any]) -> None:
        """The parts of a step follow each other and end now."""
        start = time.time() - sum(parts.values())
        for part, seconds in parts.items():
            self._trace.span("controller", part, start, seconds, step=self._step)
            if part == "reward":
                self._trace.span("reward actor", "score", start, seconds, step=self._step)
            if part == "learner":
                busy = min(seconds, float(row.get("learner_busy_s", seconds)))
                self._trace.span("learner ranks", "step", start + seconds - busy, busy, step=self._step)
            start += seconds

    def drawn(self, drawn: RolloutResult) -> None:
        """A group that has just come."""
        receipt = drawn.receipt
        self._receipts.append(receipt)
        role = receipt.get("worker", "rollout workers")
        facts = {"step": drawn.task.step, "version": receipt["version"], "tokens": receipt["tokens"]}
        self._trace.ended(role, drawn.task.record.uid, receipt["seconds"], **facts)

    def journal(self, event: str, member: WorkerHandle) -> None:
        """A worker that came, went, or has just `loaded` weights (begun at
        `member.times["load"]`)."""
        role = f"rollout-{member.number}"
        facts = {"role": role, "node": member.node, "version": member.held, "step": self._step}
        if event == "loaded":
            began = member.times.get("load", time.time())
            self._trace.span(role, f"load version {member.held}", began, time.time() - began)
            _log.debug("loaded", extra=facts)
        else:
            _log.info("%s", event, extra=facts)

    def state(self, state: Mapping[str, Any]) -> None:
        """What was written to state.json."""
        self._telemetry.fleet(state)

    def fault(self, fault: Fault) -> None:
        row = fault.row()
        self._telemetry.fault(row)
        facts = {name: row[name] for name in ("role", "node", "kind", "cause", "action")}
        _log.warning("%s", fault, extra={**facts, "step": self._step})
