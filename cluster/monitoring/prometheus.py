"""PrometheusBackend: a run's figures as Prometheus metrics.

- They go through `ray.util.metrics`: Ray exports them on its own endpoint of the driver's node.
- Names are `ray_rapo_*`; the tag `run` is the run folder's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from actors.messages import GroupReceipt
from cluster.files.json_values import finite
from cluster.files.run_state import RunState, worker_counts

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

_STEP_S = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
_WORKER = ("running", "groups", "tokens", "busy_seconds", "version")

Metric = TypeVar("Metric")


class PrometheusBackend:
    """Needs a connected Ray."""

    name = "Prometheus"

    def __init__(self, run: str) -> None:
        from ray.util import metrics

        self._metrics = metrics
        self._run = run
        self._gauges: dict[str, Gauge] = {}
        self._workers: set[str] = set()
        self._states: set[str] = set()
        self._groups = self._make(metrics.Counter, "groups_total", "Groups sampled.")
        self._tokens = self._make(metrics.Counter, "tokens_total", "Completion tokens sampled.")
        self._dropped = self._make(metrics.Counter, "dropped_total", "Groups dropped because they were too old.")
        self._faults = self._make(metrics.Counter, "faults_total", "Faults by role and kind.", ("role", "kind"))
        self._parts = metrics.Histogram(
            "rapo_step_seconds", "Seconds of a step by part.", boundaries=_STEP_S, tag_keys=("run", "part")
        )
        self._latency = metrics.Histogram(
            "rapo_group_seconds", "Seconds from request to group.", boundaries=_STEP_S, tag_keys=("run",)
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._set("step", step)
        for name, value in values.items():
            kind, _, part = name.partition("/")
            if kind == "seconds":
                self._parts.observe(value, {"run": self._run, "part": part})
            elif name == "dropped":
                if value > 0:
                    self._dropped.inc(value, {"run": self._run})
            else:
                self._set(name, value)

    def state(self, state: RunState) -> None:
        counts = dict.fromkeys(self._states, 0) | worker_counts(state.workers)
        self._states |= counts.keys()
        for name, count in counts.items():
            self._set("fleet_workers", count, state=name)
        if state.wanted is not None:
            self._set("fleet_wanted", state.wanted)
        names = set()
        for worker in state.workers:
            name = str(worker.get("name"))
            names.add(name)
            for fact in _WORKER:
                if (value := finite(worker.get(fact))) is not None:
                    self._set(f"worker_{fact}", value, worker=name)
        for gone in self._workers - names:  # a gauge would keep its last value for good
            self._set("worker_running", 0, worker=gone)
        self._workers = names
        for name, count in state.window.items():
            self._set(f"window_{name}", count)

    def fault(self, role: str, kind: str) -> None:
        # Without the worker's number and node: a tag for each worker that ever lived would grow
        # without end.
        self._faults.inc(1, {"run": self._run, "role": re.sub(r"\s*\d+.*$", "", role), "kind": kind})

    def groups(self, receipts: Sequence[GroupReceipt]) -> None:
        if not receipts:
            return
        self._groups.inc(len(receipts), {"run": self._run})
        tokens = sum(receipt.tokens for receipt in receipts)
        if tokens:
            self._tokens.inc(tokens, {"run": self._run})
        for receipt in receipts:
            self._latency.observe(receipt.seconds, {"run": self._run})

    def close(self) -> None:
        return None

    def _set(self, name: str, value: float, **tags: str) -> None:
        name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
        if name not in self._gauges:
            self._gauges[name] = self._make(self._metrics.Gauge, name, name.replace("_", " "), tuple(tags))
        self._gauges[name].set(float(value), {"run": self._run, **tags})

    def _make(self, kind: Callable[..., Metric], name: str, description: str, tags: tuple[str, ...] = ()) -> Metric:
        return kind(f"rapo_{name}", description, tag_keys=("run", *tags))
