"""AesCoT as a job: what the system around the teacher costs by number of rows, and what kills of
the driver cost.

    python -m bench.aescot_job --work DIR [--rows 20000 200000] [--kills 3] [--latency 0.05]
                               [--without-ray]

Reader, Ray Data, pools, shards and rounds are the real ones; teacher and judge only take time
(`bench.support.critique_roles`), and every image has 16 KiB. Unless `--kills 0` says not to, the
first number of rows is asked once more by a job whose driver is killed (SIGKILL) at random moments.
The critiques must be the same to the last byte, and of a row that is asked twice no answer may have
been in a shard.

Memory is the peak of what processes hold for themselves (USS), looked at every two seconds: of the
driver, and of all other processes of its Ray together. Expectation: flat in rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from bench.support import record
from bench.support.critique_roles import LATENCY, LOG

_SETTINGS = (
    "aescot.refill=1",
    "aescot.shard_rows=256",
    "aescot.batch_size=64",
    "aescot.teacher.actors=4",
    "aescot.teacher.cpus=0.5",
    "aescot.judge.actors=2",
    "aescot.judge.cpus=0.5",
    "ray.cpus=8",
    "ray.object_store_mib=512",
)
_POLL_S, _LOOK_S = 0.1, 2.0


@dataclass(slots=True)
class Result:
    """One job: rows that were asked, seconds, and peaks of memory in MiB."""

    rows: int
    asked: int
    rounds: int
    seconds: float
    rows_per_s: float
    driver_mib: float
    others_mib: float
    kills: int
    repeated: int
    repeated_though_written: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the teacher takes for 64 rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-ray", action="store_true", help="the driver's own part, without kills")
    arguments = parser.parse_args()
    os.environ[LATENCY] = str(arguments.latency)
    if arguments.without_ray:
        for rows in arguments.rows:
            Job(arguments.work / f"alone-{rows}", rows, ("--without-ray",)).run([])
        return
    rows, *more = arguments.rows
    plain = arguments.work / f"plain-{rows}"
    results = [Job(plain, rows).run([])]
    same = True
    if arguments.kills:
        rng = random.Random(arguments.seed)
        moments = sorted(rng.sample(range(1, len(list((plain / "shards").iterdir()))), arguments.kills))
        results.append(Job(arguments.work / f"killed-{rows}", rows).run([(at, rng.random()) for at in moments]))
        same = _digest(plain) == _digest(arguments.work / f"killed-{rows}")
    results += [Job(arguments.work / f"plain-{number}", number).run([]) for number in more]
    table = [asdict(result) for result in results]
    path = record.write_json("aescot_job", {"machine": record.machine(), "same": same, "jobs": table})
    sys.stdout.write(f"{record.markdown_table(table)}\n\n{path}\n")
    if arguments.kills:
        sys.stdout.write(f"the same critiques after kills: {same}\n")
    if not same:
        raise SystemExit(1)


class Job:
    """One job in a folder of its own, with its driver in a process of its own."""

    def __init__(self, folder: Path, rows: int, flags: tuple[str, ...] = ()) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._rows = rows
        self._flags = flags
        self._questions = folder / "questions.txt"
        self._driver_mib = self._others_mib = 0.0
        self._answered: list[tuple[set[str], Counter[str]]] = []

    def run(self, kills: list[tuple[int, float]]) -> Result:
        """Run to the end, with a kill of the driver when so many shards are there, and after so
        many more seconds."""
        began = time.perf_counter()
        paid_again = 0
        for moment in kills:
            self._start(moment)
            written, before = self._written(), self._asked()
            self._answered.append((written, before))
        counts = json.loads(self._start(None))
        seconds = time.perf_counter() - began
        asked = self._asked()
        for written, before in self._answered:
            paid_again += sum(asked[uid] > before[uid] for uid in written)
        result = Result(
            rows=self._rows,
            asked=len(asked),
            rounds=counts["rounds"],
            seconds=round(seconds, 1),
            rows_per_s=round(len(asked) / seconds),
            driver_mib=round(self._driver_mib),
            others_mib=round(self._others_mib),
            kills=len(kills),
            repeated=asked.total() - len(asked),
            repeated_though_written=paid_again,
        )
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        return result

    def _start(self, kill_at: tuple[int, float] | None) -> str:
        """What the driver prints; empty where it is killed."""
        command = [
            sys.executable,
            "-m",
            "bench.support.critique_job",
            str(self._folder),
            str(self._rows),
            *self._flags,
            *_SETTINGS,
        ]
        environment = {**os.environ, LOG: str(self._questions)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            driver = psutil.Process(process.pid)
            looked = time.perf_counter()
            while process.poll() is None:
                time.sleep(_POLL_S)
                if time.perf_counter() - looked > _LOOK_S:
                    looked = time.perf_counter()
                    self._look(driver)
                if kill_at is not None and len(self._shards()) >= kill_at[0]:
                    time.sleep(kill_at[1])
                    _kill(driver)
                    return ""
            assert process.stdout is not None
            printed = process.stdout.read()
            if process.returncode != 0:
                raise SystemExit(f"the driver ended with {process.returncode}")
        return printed

    def _shards(self) -> list[Path]:
        return list((self._folder / "shards").glob("*.parquet"))

    def _written(self) -> set[str]:
        """The uids of the rows in shards."""
        return {uid for path in self._shards() for uid in pq.read_table(path, columns=["uid"])["uid"].to_pylist()}

    def _asked(self) -> Counter[str]:
        return Counter(self._questions.read_text(encoding="utf-8").split())

    def _look(self, driver: psutil.Process) -> None:
        try:
            self._driver_mib = max(self._driver_mib, driver.memory_full_info().uss / 2**20)
            others = sum(_uss(process) for process in driver.children(recursive=True))
            self._others_mib = max(self._others_mib, others / 2**20)
        except psutil.NoSuchProcess:
            return


def _kill(driver: psutil.Process) -> None:
    """Kill the driver. Its Ray ends by itself, but for agents that look on for a while."""
    rest = driver.children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    _, agents = psutil.wait_procs([driver, *rest], timeout=10)
    for agent in agents:
        agent.kill()


def _uss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().uss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _digest(folder: Path) -> str:
    """A digest of the critiques; paths differ between folders."""
    digest = hashlib.blake2b()
    file = pq.ParquetFile(folder / "critiques.parquet")
    for group in range(file.num_row_groups):
        table = file.read_row_group(group).drop_columns(["path"])
        digest.update(json.dumps(table.to_pylist()).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
