"""A running service under callers that send the dearest images that they can.

    python -m bench.serving_attack --server HOST:PORT --replica PID [--seconds 10] [--rounds 3]
        [--image NAME ...] [--tokens VICTIM ATTACKER]

One caller (the victim) scores an image of 84 x 84 after the other, in turns alone and while another
one begins two calls with a deadline of 2 s every 2 s, with an image of
`bench.support.attack_images`, by name.
For each image: the victim's latencies, the attacker's statuses, the memory of the replica and its
decoders, and their CPU time in the second after the last deadline. Writes
`bench/results/serving_attack.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from bench.support import attack_images, record
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import REASON_KEY

_DEADLINE_S = 2.0
_SIDE = 84
_TICKS = os.sysconf("SC_CLK_TCK")
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Watch:
    """The replica's process and its decoders: CPU seconds, and MiB as seen every 50 ms."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._stop = threading.Event()
        self.peak = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)

    def family(self) -> list[int]:
        """The process and all below it."""
        found = [self._process]
        for process in found:
            for tasks in Path(f"/proc/{process}/task").glob("*/children"):
                found.extend(int(child) for child in _text(tasks).split())
        return found

    def cpu_s(self) -> float:
        """CPU time of all of them, and of those that have ended."""
        ticks = 0
        for process in self.family():
            fields = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
            ticks += sum(int(fields[place]) for place in (11, 12, 13, 14)) if fields else 0
        return ticks / _TICKS

    def mib(self) -> float:
        """Memory of all of them; what they share counts once."""
        total = 0
        for process in self.family():
            for line in _text(Path(f"/proc/{process}/smaps_rollup")).splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, self.mib())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # it has ended
        return ""


def score(channel: grpc.Channel, image: bytes, token: str | None, timeout_s: float) -> str:
    """The call's status, or the reason of an image that was refused."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        scorer_pb2_grpc.AestheticScorerStub(channel).Score(
            scorer_pb2.ScoreRequest(image=image), timeout=timeout_s, metadata=metadata
        )
    except grpc.RpcError as error:
        marks = dict(error.trailing_metadata() or ())
        return str(marks.get(REASON_KEY, error.code().name))
    return "OK"


class Latencies:
    """Of one caller's calls, in milliseconds, and their statuses."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.codes = Counter[str]()

    def summary(self) -> dict[str, Any]:
        """Their number and quantiles."""
        p50, p99 = (round(float(value), 1) for value in np.percentile(self.times or [0.0], (50, 99)))
        return {"calls": len(self.times), "p50_ms": p50, "p99_ms": p99, "codes": dict(self.codes)}


def victim(address: str, token: str | None, seconds: float, seen: Latencies) -> None:
    """Calls of one caller, one after the other, a new image each time."""
    rng = np.random.default_rng(time.monotonic_ns())
    end = time.monotonic() + seconds
    with grpc.insecure_channel(address, _OPTIONS) as channel:
        while time.monotonic() < end:
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(out, "JPEG")
            began = time.monotonic()
            seen.codes[score(channel, out.getvalue(), token, 60.0)] += 1
            seen.times.append(1000 * (time.monotonic() - began))


@contextmanager
def attacking(arguments: argparse.Namespace, image: bytes, codes: Counter[str]) -> Iterator[None]:
    """Two calls with this image begin every two seconds inside the block."""
    stop = threading.Event()

    def attack() -> None:
        with grpc.insecure_channel(arguments.server, _OPTIONS) as channel:
            while not stop.is_set():
                end = time.monotonic() + _DEADLINE_S
                codes[score(channel, image, arguments.tokens[1], _DEADLINE_S)] += 1
                stop.wait(end - time.monotonic())

    threads = [threading.Thread(target=attack) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def compared(arguments: argparse.Namespace, image: bytes) -> dict[str, Any]:
    """The victim alone and under attack, in turns: no machine is equally fast in every minute."""
    quiet, attacked, codes = Latencies(), Latencies(), Counter[str]()
    after = []
    with Watch(arguments.replica) as watch:
        for _ in range(arguments.rounds):
            victim(arguments.server, arguments.tokens[0], arguments.seconds, quiet)
            with attacking(arguments, image, codes):
                victim(arguments.server, arguments.tokens[0], arguments.seconds, attacked)
            before = watch.cpu_s()
            time.sleep(1.0)
            after.append(watch.cpu_s() - before)
    return {
        "quiet": quiet.summary(),
        "attacked": attacked.summary(),
        "attack": dict(codes),
        "cpu_s_after_deadline": round(max(after), 2),
        "peak_mib": round(watch.peak),
        "settled_mib": round(watch.mib()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    images = {**attack_images.REFUSED, **attack_images.ACCEPTED}
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--replica", required=True, type=int, metavar="PID")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", action="append", choices=list(images))
    parser.add_argument("--tokens", nargs=2, default=[None, None], metavar=("VICTIM", "ATTACKER"))
    arguments = parser.parse_args()
    victim(arguments.server, arguments.tokens[0], 3.0, Latencies())
    result: dict[str, Any] = {
        "machine": record.machine(),
        "versions": record.versions(["pillow", "grpcio", "ray"]),
        "mib_before": round(Watch(arguments.replica).mib()),
    }
    for name in arguments.image or images:
        result[name] = compared(arguments, images[name]())
        sys.stdout.write(f"{name}: {json.dumps(result[name])}\n")
        sys.stdout.flush()
    record.write_json("serving_attack", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
