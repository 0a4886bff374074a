"""What training waits for a checkpoint, with the run folder on this machine and at a URL.

    python -m bench.storage.checkpoint_wait [--mb 31 200] [--checkpoints 6] [--every 5]

- `Checkpoints.write` is the controller's own. The ranks' bytes are there already, as those of a
  snapshot are, and a process of its own writes them with `write_state`, as the task on the driver's
  node does. Ray's way from the ranks to that node is not in it.
- Steps take turns with looks at the checkpoint, as in the controller: a step is a fixed amount of
  Python's work, as the controller's is, so that it shows what the thread that stores takes from it.
- At the URL a `RunMirror` looks for changes every second, against moto's S3 server in a process.

`begin_s` and `end_s` are what the training thread waits for: the driver's part of a checkpoint, and
its end, when the ranks' part is written. `step_ms` is a step's median, `stored_s` the time from the
last step until all is stored, which the end of the stage waits for.

Expectation (2 cores): the waits are alike; a step beside the upload takes longer by what the server
and the upload take of the cores, and no step waits for an upload.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.support import record
from cluster.files.run_mirror import RunMirror
from cluster.remote.waiting import Waiting
from cluster.training.best_model import BestState
from cluster.training.checkpoint import Checkpoints, TrainingState
from cluster.training.staleness import WindowState
from rapo.util.file_manifest import Entries
from tests.s3_server import BUCKET, environment, s3_server

if TYPE_CHECKING:
    from ray import ObjectRef

_RANKS = 2
_WORK = 40_000
_LIMIT_S = 600.0


def write_ranks(folder: Path, mb: float) -> Entries:
    """In another process: the files of all ranks, incompressible, and new each time."""
    from rapo.policy.state import write_state

    size = int(mb * 1e6 / _RANKS)
    written: Entries = {}
    for rank in range(_RANKS):
        data = np.frombuffer(np.random.default_rng().bytes(size), np.uint8)
        written |= write_state(folder, {f"rank_{rank}.pt": data})
    return written


def saving(pool: ProcessPoolExecutor, mb: float, folder: Path) -> Waiting[Entries]:
    """As the ranks' part of a checkpoint: something to wait for, until it is written."""
    future: Future[Entries] = pool.submit(write_ranks, folder, mb)
    pending: Sequence[ObjectRef] = ()
    while not future.done():
        yield pending
    return future.result()


def step() -> float:
    """The seconds of a step's Python work."""
    began = time.perf_counter()
    sum(number * number for number in range(_WORK))
    return time.perf_counter() - began


def train(folder: Path, pool: ProcessPoolExecutor, mb: float, count: int, every_s: float) -> dict[str, list[float]]:
    """Steps with `count` checkpoints, one every few seconds."""
    checkpoints = Checkpoints(folder / "rapo/state", keep=2)
    begins: list[float] = []
    ends: list[float] = []
    steps: list[float] = []
    for number in range(1, count + 1):
        began = time.monotonic()
        state = TrainingState(number, WindowState(0, [], {}, 0, 0), [], BestState(None, None), _RANKS)
        writing = checkpoints.write(state, {}, partial(saving, pool, mb))
        calls, ended = [], False
        while time.monotonic() - began < every_s or not ended:
            if not ended:
                at = time.perf_counter()
                ended = next(writing, None) is None
                calls.append(time.perf_counter() - at)
            steps.append(step())
        begins.append(calls[0])
        ends.append(calls[-1])  # those between only ask whether the ranks' part is written
    return {"begin": begins, "end": ends, "step": steps}


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def measure(where: str, mb: float, disk: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=disk) as name, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        folder = Path(name) / "run"
        pool.submit(write_ranks, Path(name) / "first", 0.1).result(_LIMIT_S)
        mirror = RunMirror(f"s3://{BUCKET}/{mb:g}", folder, 1.0, note) if where == "url" else None
        with nullcontext() if mirror is None else mirror.open():
            found = train(folder, pool, mb, arguments.checkpoints, arguments.every)
            stored = 0.0 if mirror is None else seconds(mirror.flush)
    return {
        "state, MB": mb,
        "run folder": where,
        "begin_s": statistics.median(found["begin"]),
        "longest_begin_s": max(found["begin"]),
        "end_s": statistics.median(found["end"]),
        "longest_end_s": max(found["end"]),
        "step_ms": 1e3 * statistics.median(found["step"]),
        "p99_step_ms": 1e3 * statistics.quantiles(found["step"], n=100)[98],
        "stored_s": stored,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, nargs="+", default=[31.0, 200.0])
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two checkpoints")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="where run folders lie")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for checkpoint_wait.json and .md")
    arguments = parser.parse_args()
    pressure = record.CpuPressure()
    with s3_server() as port:
        os.environ.update(environment(port))
        rows = [measure(where, mb, arguments.disk, arguments) for mb in arguments.mb for where in ("local", "url")]
    machine, versions = record.machine(), record.versions(("pyarrow",))
    result = {"machine": machine, "versions": versions, "cpu_pressure": pressure.share(), "rows": rows}
    record.write_json("checkpoint_wait", result, arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")
    notes = [f"Pressure {pressure.share()}.", record.describe(machine, versions)]
    record.write_markdown("checkpoint_wait", "What training waits for a checkpoint", rows, notes, arguments.out)


if __name__ == "__main__":
    main()
