"""A running service under callers that send the dearest images that they can.

    python -m bench.serving_attack --model DIR/export [--seconds 10] [--rounds 3] [--image NAME ...]
        [--sweep]

Starts `rapo serve`. One caller (the victim) scores an image of 84 x 84 after the other, in turns
alone and while another one begins two calls with a deadline of 2 s every 2 s, with an image of
`bench.support.attack_images`, by name. For each image: the victim's latencies, the attacker's
statuses, and the CPU time of the replica and its decoders in the second after the last deadline,
beside that of an idle second. With `--sweep` the most that such a second takes for deadlines of .3
to 3 s as well, so that the call ends in each stage of its way. Writes
`bench/results/serving_attack.json` and `.md`.
"""

from __future__ import annotations

import argparse
import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.serving.running_scorer import RunningScorer, running_scorer
from bench.support import attack_images, record

_DEADLINE_S = 2.0
_SWEPT_S = tuple(tenths / 10 for tenths in range(3, 31))
_SETTLE_S = 1.0
_SIDE = 84
_WARM_UP_S = 5.0
_VICTIM, _ATTACKER = "victim", "attacker"
_IMAGES = {**attack_images.REFUSED, **attack_images.ACCEPTED}
#: Those that structure checks refuse, and three that are decoded at the highest cost.
_WORST = (*attack_images.REFUSED, "webp_flat", "jpeg_cmyk_progressive", "jpeg2000_flat")


@dataclass
class Latencies:
    """Of one caller's calls, in milliseconds, and their statuses."""

    times: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def quantiles(self) -> tuple[float, float]:
        """The median and the 99th percentile; nan where nothing was called."""
        p50, p99 = np.percentile(self.times or [np.nan], (50, 99))
        return round(float(p50), 1), round(float(p99), 1)


def calls_of_victim(scorer: RunningScorer, seconds: float, seen: Latencies) -> None:
    """Calls of one caller, one after the other, a new image each time."""
    rng = np.random.default_rng(time.monotonic_ns())
    end = time.monotonic() + seconds
    with scorer.channel() as channel:
        while time.monotonic() < end:
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(out, "JPEG")
            began = time.monotonic()
            seen.codes[scorer.score(channel, _VICTIM, out.getvalue(), 60.0)] += 1
            seen.times.append(1000 * (time.monotonic() - began))


@contextmanager
def attacking(
    scorer: RunningScorer, image: bytes, codes: Counter[str], deadline_s: float = _DEADLINE_S
) -> Iterator[None]:
    """Two calls with this image begin at once inside the block, and two whenever the deadline of
    those before is over."""
    stop = threading.Event()

    def attack() -> None:
        with scorer.channel() as channel:
            while not stop.is_set():
                end = time.monotonic() + deadline_s
                codes[scorer.score(channel, _ATTACKER, image, deadline_s)] += 1
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


def cpu_of_a_second(scorer: RunningScorer) -> float:
    """CPU seconds of the replica and its decoders in the next second."""
    before = scorer.cpu_s("replica", "decoders")
    time.sleep(1.0)
    return scorer.cpu_s("replica", "decoders") - before


def compared(scorer: RunningScorer, image: bytes, seconds: float, rounds: int) -> dict[str, Any]:
    """The victim alone and under attack, in turns: no machine is equally fast in every minute."""
    quiet, attacked, codes = Latencies(), Latencies(), Counter[str]()
    after = []
    for _ in range(rounds):
        calls_of_victim(scorer, seconds, quiet)
        with attacking(scorer, image, codes):
            calls_of_victim(scorer, seconds, attacked)
        after.append(cpu_of_a_second(scorer))
    (quiet_p50, quiet_p99), (p50, p99) = quiet.quantiles(), attacked.quantiles()
    failed = (quiet.codes + attacked.codes).total() - quiet.codes["OK"] - attacked.codes["OK"]
    return {
        "calls": len(quiet.times) + len(attacked.times),
        "failed": failed,
        "quiet p50, ms": quiet_p50,
        "p50": p50,
        "quiet p99, ms": quiet_p99,
        "p99": p99,
        "p99 over quiet": round(p99 / quiet_p99, 2),
        "CPU s after the deadline": round(max(after), 2),
        "attacker's answers": ", ".join(f"{code} {count}" for code, count in codes.most_common()),
    }


def swept(scorer: RunningScorer, image: bytes) -> dict[str, Any]:
    """The most CPU seconds in the second after a deadline, over deadlines of many lengths."""
    after = {}
    for deadline_s in _SWEPT_S:
        with attacking(scorer, image, Counter(), deadline_s):
            time.sleep(deadline_s / 2)  # so that no second pair of calls begins
        after[deadline_s] = cpu_of_a_second(scorer)
        time.sleep(_SETTLE_S)
    worst = max(after, key=after.__getitem__)
    return {"most CPU s after any deadline": round(after[worst], 2), "that deadline, s": worst}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", action="append", choices=list(_IMAGES), help=f"default: {', '.join(_WORST)}")
    parser.add_argument("--sweep", action="store_true", help="deadlines of .3 to 3 s as well, 2 minutes an image")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for serving_attack.json and .md")
    arguments = parser.parse_args()
    names = arguments.image or _WORST
    images = {name: _IMAGES[name]() for name in names}
    machine, versions = record.machine(), record.versions(["pillow", "grpcio", "ray"])
    pressure, rows = record.CpuPressure(), list[dict[str, Any]]()
    with running_scorer(arguments.model, (_VICTIM, _ATTACKER)) as scorer:
        calls_of_victim(scorer, _WARM_UP_S, Latencies())
        idle = round(cpu_of_a_second(scorer), 2)
        for name, image in images.items():
            row = {"image": name, "MiB": round(len(image) / 2**20, 1)}
            row |= compared(scorer, image, arguments.seconds, arguments.rounds)
            rows.append(row | (swept(scorer, image) if arguments.sweep else {}))
            sys.stderr.write(f"{rows[-1]}\n")
    result = {
        "machine": machine,
        "versions": versions,
        "idle_cpu_s": idle,
        "pressure": pressure.share(),
        "images": rows,
    }
    record.write_json("serving_attack", result, arguments.out)
    notes = [
        f"{arguments.rounds} rounds of two turns of {arguments.seconds:g} s. An idle second takes {idle} CPU seconds."
    ]
    notes.append(record.describe(machine, versions))
    record.write_markdown("serving_attack", "A caller beside an attacker", rows, notes, arguments.out)
    sys.stdout.write("\n\n".join([record.markdown_table(rows), *notes]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
