"""The stall of a training step by copies of its state and weights, and by checkpoints.

    python -m bench.storage.state_copies [--workload W2] [--rounds 7] [--disk FOLDER]

One rank with the model, the optimiser (ZeRO-2, float32) and the code of the learner, after one real
step. What a step waits for is measured beside what goes on in other threads while it runs, and
beside the same without a copy in memory: DeepSpeed writes its files, to a memory file system for a
snapshot, to the disk for a checkpoint, and the step waits. The object store takes another copy in
each case, which is not counted. Seconds are of the wall, the median, and of the thread's processor
time, which other work on the machine does not change.

Expectation (2 cores, 20 million parameters, 240 MB of state, a third of it weights): a copy takes a
third of the files' time or less, and a checkpoint costs the step as much as a snapshot.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.support import record
from bench.support.settings import workload_config
from bench.support.workloads import WORKLOADS, Workload, build_model, make_images
from rapo.algorithm.partition import Share
from rapo.config import Config
from rapo.policy.state import StateFiles, write_state
from rapo.records import Group, ScoredGroup
from rapo.util.atomic_dir import sync
from rapo.util.file_manifest import entries_of

_PACKAGES = ("torch", "deepspeed")
_MEMORY = Path("/dev/shm")
_LIMIT_S = 60.0


def joined_trainer(config: Config, model_dir: Path) -> Any:
    """The trainer of a world of one."""
    from rapo.policy.distributed import Rank, join_world
    from rapo.policy.meeting import host, listen

    join_world(Rank(0, 1, threads=1, timeout_s=_LIMIT_S), host(listen("127.0.0.1"), _LIMIT_S))
    from rapo.policy.trainer import PolicyTrainer

    return PolicyTrainer(str(model_dir), config, world=1)


def one_step(trainer: Any, workload: Workload) -> None:
    """One step on one group, so that the optimiser has its moments."""
    tokens = workload.new_tokens
    group = Group(
        uid="0/noise",
        image_uid="noise",
        dataset="noise",
        target=0.5,
        step=0,
        weight_version=0,
        prompt_tokens=0,
        token_ids=(np.full(tokens, 20, np.int32),) * 2,
        logprobs=(np.full(tokens, -1.0, np.float32),) * 2,
        texts=("", ""),
        finish_reasons=("length", "length"),
    )
    scored = ScoredGroup(group, np.array([0.4, 0.6]), np.array([0.4, 0.6]), np.array([-1.0, 1.0]))
    trainer.step(Share((scored,), 1, 2, 2 * tokens), {"noise": make_images(workload, 0)[0]})


def through_files(trainer: Any, folder: Path) -> StateFiles:
    """A state as DeepSpeed's files, read back."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        trainer.engine.save_checkpoint(name, tag="state", save_latest=False)
        return {path.name: np.fromfile(path, np.uint8) for path in (Path(name) / "state").iterdir()}


def to_disk(trainer: Any, folder: Path) -> None:
    """A checkpoint that DeepSpeed writes itself, whole on the disk and with its checksums."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        trainer.engine.save_checkpoint(name, tag="state", save_latest=False)
        paths = list((Path(name) / "state").iterdir())
        for path in paths:
            sync(path)
        entries_of(Path(name), paths)


class Timer:
    """Seconds of each kind of work, by the wall and of the thread's processor time."""

    def __init__(self) -> None:
        self._wall: dict[str, list[float]] = {}
        self._own: dict[str, list[float]] = {}

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        began, used = time.perf_counter(), time.thread_time()
        result = work()
        self._wall.setdefault(name, []).append(time.perf_counter() - began)
        self._own.setdefault(name, []).append(time.thread_time() - used)
        return result

    def rows(self) -> list[dict[str, Any]]:
        """The medians, without the first round."""
        return [
            {
                "work": name,
                "wall_s": statistics.median(self._wall[name][1:]),
                "processor_s": statistics.median(self._own[name][1:]),
            }
            for name in self._wall
        ]


def measure(trainer: Any, rounds: int, disk: Path) -> tuple[list[dict[str, Any]], int]:
    timer, size = Timer(), 0
    for _ in range(rounds + 1):
        timer.measure("publish: the step waits", lambda: trainer.snapshot(trainer.version))
        number = timer.measure("snapshot: the step waits", trainer.copy_state)
        files = timer.measure("snapshot: beside steps", partial(trainer.pack_state, number))
        size = sum(data.nbytes for data in files.values())
        with tempfile.TemporaryDirectory(dir=disk) as name:
            timer.measure("checkpoint: beside steps", partial(write_state, Path(name), files))
        del files
        timer.measure("snapshot through files: the step waits", lambda: through_files(trainer, _MEMORY))
        timer.measure("checkpoint by DeepSpeed: the step waits", lambda: to_disk(trainer, disk))
    return timer.rows(), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="where checkpoints go")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for state_copies.json and .md")
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    with tempfile.TemporaryDirectory() as name:
        model_dir = build_model(workload, Path(name) / "model")
        trainer = joined_trainer(workload_config(workload, model_dir, 10, "learner.workers=1"), model_dir)
        one_step(trainer, workload)
        pressure = record.CpuPressure()
        rows, size = measure(trainer, arguments.rounds, arguments.disk)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    result = {"machine": machine, "versions": versions, "cpu_pressure": pressure.share(), "bytes": size, "rows": rows}
    record.write_json("state_copies", result, arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")
    notes = [f"A state of {size / 1e6:.0f} MB.", record.describe(machine, versions)]
    record.write_markdown("state_copies", "Copies of the training state", rows, notes, arguments.out)


if __name__ == "__main__":
    main()
