"""BareCluster: a cluster of several raylets on this machine that have no code of rapo.

- Each has a working folder and a folder for Ray's files of its own. With a shared one a raylet
  would replace the code that was sent to another, under the feet of the processes that work in it.
- On their path stand packages of rapo's names that cannot be imported, in front of an installed
  one.
- With `UNSEEN` in their environment no node but `driver` and the head sees that folder. Of several
  nodes on one host Ray takes the head for a driver's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.limits import PATIENCE_S
from tests.s3_server import free_port

ROOT = Path(__file__).resolve().parents[3]

#: Every Python process of a node runs this first.
_BLINDFOLD = """
import os, sys
unseen = os.environ.get("UNSEEN")
def refuse(event, arguments):
    path = arguments[0] if arguments else None
    if isinstance(path, (str, os.PathLike)) and f"{path}/".startswith(f"{unseen}/"):
        raise FileNotFoundError(2, f"{event} on a node that does not see the folder", str(path))
if unseen and os.environ["BARE_NODE"] not in ("driver", "head"):
    sys.addaudithook(refuse)
"""


@dataclass(frozen=True, slots=True)
class BareCluster:
    """`address` is the head's, `jobs` that of its job server."""

    address: str
    jobs: str
    _temp: Path
    _process: subprocess.Popen[str]

    def add(self, node: str) -> None:
        """Add a node of 8 CPUs, with a resource of its name and the label of its kind: `driver`,
        `on-demand`, or `spot` with a number."""
        self._have("add", node)

    def drain(self, node: str) -> None:
        """Have Ray announce that a node is about to be taken back."""
        self._have("drain", node)

    def kill(self, node: str) -> None:
        """Kill a node with all of its processes."""
        self._have("kill", node)

    def said(self) -> str:
        """What the jobs' drivers have said."""
        # Not by `ray job logs`, which takes all nodes of a host for its head.
        logs = self._temp.glob("*/session_latest/logs/job-driver-*.log")
        return "".join(log.read_text() for log in logs)

    def _have(self, what: str, node: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {node}\n")
        self._process.stdin.flush()
        assert _next(self._process) == what


@contextmanager
def bare_cluster(folder: Path, *nodes: str, **environment: str) -> Iterator[BareCluster]:
    """A cluster of a head and `nodes` that work in `folder`, with these variables in their
    environment. At the end of the block all of them are lost at once."""
    blocked = folder / "blocked"
    for name in ("rapo", "actors", "cluster", "services"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError(f'{__file__} is not what a node needs')\n")
    (blocked / "sitecustomize.py").write_text(_BLINDFOLD)
    port = free_port()
    temp = tempfile.mkdtemp(prefix="bare")  # Ray's sockets need a short path
    program = [sys.executable, str(Path(__file__).with_name("bare_raylets.py"))]
    with (folder / "raylets.log").open("wb") as log:
        process = subprocess.Popen(
            [*program, str(folder), str(port), temp],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(blocked), "CI": "true", **environment},
        )
    try:
        bare = BareCluster(_next(process), f"http://127.0.0.1:{port}", Path(temp), process)
        for node in nodes:
            bare.add(node)
        yield bare
    finally:
        process.communicate(timeout=PATIENCE_S)
        shutil.rmtree(temp, ignore_errors=True)


def _next(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('"'):
            return str(json.loads(line))
    raise AssertionError("the cluster ended")
