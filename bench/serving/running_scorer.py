"""RunningScorer: `rapo serve` with a token for each caller, and a look at its processes.

- It runs in processes of its own, so that the memory and CPU time of a benchmark's callers are not
  among its own.
- A process that has ended counts with its CPU time if its parent has waited for it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import REASON_KEY
from services.gateway.tokens import new_token, token_line
from tests.listening import family

_START_S, _STOP_S, _SETTLE_S = 400.0, 60.0, 5.0
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class RunningScorer:
    """A service at `address`; `tokens` are those of its callers, by name."""

    address: str
    process: int
    tokens: dict[str, str]

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(self.address, _OPTIONS)

    def score(self, channel: grpc.Channel, caller: str, image: bytes, timeout_s: float) -> str:
        """The call's status, or the reason of an image that was refused."""
        try:
            scorer_pb2_grpc.AestheticScorerStub(channel).Score(
                scorer_pb2.ScoreRequest(image=image),
                timeout=timeout_s,
                metadata=[("authorization", f"Bearer {self.tokens[caller]}")],
            )
        except grpc.RpcError as error:
            marks = dict(error.trailing_metadata() or ())
            return str(marks.get(REASON_KEY, error.code().name))
        return "OK"

    def processes(self) -> dict[str, list[int]]:
        """The ids of its processes: `gateway`, `replica`, `decoders`, `proxy` (Serve's), `ray` (all
        others)."""
        found = family(self.process)
        named = {process: _text(Path(f"/proc/{process}/comm")).strip() for process in found}
        replicas = [process for process, name in named.items() if name.startswith("ray::ServeRepl")]
        below = {one for replica in replicas for one in family(replica)} - set(replicas)
        groups: dict[str, list[int]] = {name: [] for name in ("gateway", "replica", "decoders", "proxy", "ray")}
        for process, name in named.items():
            if process == self.process:
                groups["gateway"].append(process)
            elif process in replicas:
                groups["replica"].append(process)
            elif process in below:
                groups["decoders"].append(process)
            else:
                groups["proxy" if name.startswith("ray::Proxy") else "ray"].append(process)
        return groups

    def cpu_s(self, *groups: str) -> float:
        """CPU time of the processes of these groups, and of their children that have ended.

        One that ends meanwhile would count neither for itself nor for its parent. So what was read
        counts only where the processes are the same before and after.
        """
        deadline = time.monotonic() + _SETTLE_S
        now = self._of(groups)
        while True:
            processes, seconds = now, _cpu_s(now)
            now = self._of(groups)
            if now == processes:
                return seconds
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"processes of {', '.join(groups)} began or ended all the time for {_SETTLE_S:.0f} s"
                )

    def _of(self, groups: Sequence[str]) -> list[int]:
        found = self.processes()
        return [process for group in groups for process in found[group]]


def _cpu_s(processes: Sequence[int]) -> float:
    """CPU time of these processes, and of their children that have ended."""
    ticks = 0
    for process in processes:
        fields = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
        ticks += sum(int(fields[place]) for place in (11, 12, 13, 14)) if fields else 0
    return ticks / _TICKS


def mib(processes: Sequence[int]) -> float:
    """Memory of these processes; what n processes share counts one nth for each."""
    total = 0
    for process in processes:
        for line in _text(Path(f"/proc/{process}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def status_mib(processes: Sequence[int], field: str) -> float:
    """A figure of the kernel's status of these processes, in MiB: `VmRSS`, or `VmHWM`, its peak."""
    total = 0
    for process in processes:
        for line in _text(Path(f"/proc/{process}/status")).splitlines():
            if line.startswith(f"{field}:"):
                total += int(line.split()[1])
    return total / 1024


@contextmanager
def running_scorer(
    model: Path, callers: Sequence[str], *settings: str, inside: Sequence[str] = ()
) -> Iterator[RunningScorer]:
    """Serve this model on a free port of loopback, with these settings (`key=value`). `inside` is a
    command that becomes the service, such as `ip netns exec NAME`. SIGTERM ends the service, too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tokens = {caller: new_token() for caller in callers}
    with tempfile.TemporaryDirectory() as folder:
        known, said = Path(folder, "tokens.toml"), Path(folder, "said")
        known.write_text("".join(token_line(caller, token) + "\n" for caller, token in tokens.items()))
        changes = ("serve.port=0", f"serve.gateway.tokens={known}", *settings)
        command = [*inside, sys.executable, "-m", "rapo", "serve", str(model)]
        with said.open("w") as out:
            serving = subprocess.Popen(
                [*command, *(part for change in changes for part in ("--set", change))],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield RunningScorer(_address(serving, said), serving.pid, tokens)
        finally:
            serving.send_signal(signal.SIGTERM)
            try:
                serving.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                serving.kill()
                raise


def _address(serving: subprocess.Popen[bytes], said: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and serving.poll() is None:
        if found := re.search(r"answers at (\S+?);", said.read_text()):
            return found[1]
        time.sleep(0.2)
    raise RuntimeError(f"rapo serve does not answer. It said: {said.read_text()}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:  # it has ended
        return ""
