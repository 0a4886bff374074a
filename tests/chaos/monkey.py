"""Faults for a run that goes on in another process: which there are, and how each is done to it.

The run is known by its folder and by a cluster of several raylets on this machine, so that a node
can be taken away and every actor has a process to kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from cluster.files.jsonl import read_jsonl


class Run:
    """`rapo train` in a process of its own, on a cluster; started again when it was killed."""

    def __init__(self, out: Path, arguments: Sequence[str]) -> None:
        self.out = out
        self._arguments = list(arguments)
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "rapo", "train", "--out", str(self.out), *self._arguments]
        with (self.out / "test.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "CI": "true"})
        self.starts += 1

    @property
    def code(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.out / "rapo" / name)

    @property
    def steps(self) -> int:
        return sum("loss" in row for row in self.rows("metrics.jsonl"))

    def state(self) -> dict[str, Any]:
        """What the run says of itself; empty where it says nothing."""
        try:
            return json.loads((self.out / "rapo" / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def said(self) -> str:
        return (self.out / "test.log").read_text(encoding="utf-8", errors="replace")[-4000:]


class Monkey:
    """Does one fault at a time to a run, of the kinds that it is asked for, in an order that `seed`
    decides."""

    def __init__(self, run: Run, cluster: Cluster, node_cpus: int, seed: int) -> None:
        self._run = run
        self._cluster = cluster
        self._node_cpus = node_cpus
        self._random = random.Random(seed)
        self._stopped: list[int] = []
        self._nodes: list[Any] = []
        self.kinds: dict[str, Callable[[], bool]] = {
            "rollout": lambda: self._signal(self._pids("rollout"), signal.SIGKILL),
            "rollout stopped": lambda: self._signal(self._pids("rollout"), signal.SIGSTOP),
            "reward": lambda: self._signal(self._pids("reward"), signal.SIGKILL),
            "learner": lambda: self._signal(self._pids("learner"), signal.SIGKILL),
            "node": self._lose_node,
            "driver": self._lose_driver,
        }

    def add_node(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=self._node_cpus, object_store_memory=128 * 2**20))

    def strike(self, kind: str) -> bool:
        """Whether there was something to strike."""
        return self.kinds[kind]()

    def mixed(self, count: int) -> list[str]:
        """`count` kinds, each about equally often."""
        kinds = list(self.kinds)
        order = [kinds[i % len(kinds)] for i in range(count)]
        self._random.shuffle(order)
        return order

    def _pids(self, role: str) -> list[int]:
        state = self._run.state()
        if role == "rollout":
            return [w["pid"] for w in state.get("fleet", {}).get("workers", []) if w["state"] == "ready"]
        if role == "learner":
            return [rank["pid"] for rank in state.get("learner", [])]
        return [state["reward"]["pid"]] if state.get("reward") else []

    def _signal(self, pids: Sequence[int], number: signal.Signals) -> bool:
        there = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        if not there:
            return False
        pid = self._random.choice(there)
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            self._stopped.append(pid)
        return True

    def _lose_node(self) -> bool:
        if not self._nodes:
            return False
        node = self._nodes.pop(self._random.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        time.sleep(1.0)
        self.add_node()
        return True

    def _lose_driver(self) -> bool:
        process = self._run.process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.wait(timeout=30)
        self._run.start()
        return True
