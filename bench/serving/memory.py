"""Memory of a running service while callers send the dearest images of all formats.

    python -m bench.serving.memory --model DIR/export [--images 2000] [--minutes 12]

Starts `rapo serve`. Eight callers with a token each send images of `bench.support.attack_images`
in a mixed order: of 20 images 2 are near the limit of pixels, 13 are as large as a light image may
be, and 5 are refused by their structure. Of the gateway, the replica, Serve's proxy and all
decoders: memory before, its peak, and what is left a while after the last image. Writes
`bench/results/serving_memory.json` and `.md`; exit code 1 if an image did not get the answer that
its kind gets, or the time was over before all were sent.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving.running_scorer import RunningScorer, mib, running_scorer, status_mib
from bench.support import record
from bench.support.attack_images import ACCEPTED, LIGHT, REFUSED

_CALLERS = tuple(f"caller-{number}" for number in range(8))
_TIMEOUT_S = 60.0
_LOOK_S = 0.1
_SETTLE_S = 30.0
_ALONE, _DECODERS = ("gateway", "replica", "proxy"), "decoders"
#: Of 20 images, how many of each kind.
_SHARES = ((ACCEPTED, 2), (LIGHT, 13), (REFUSED, 5))
#: What images are answered that get no score; one of `ACCEPTED` ends before its last row.
_REFUSALS = {**dict.fromkeys(REFUSED, "too_complex"), "bmp_4_mib": "truncated"}


def order(count: int, seed: int = 0) -> list[str]:
    """The names of so many images, each kind's in turn, mixed."""
    names: list[str] = []
    turns = [(itertools.cycle(kind), share) for kind, share in _SHARES]
    while len(names) < count:
        for turn, share in turns:
            names.extend(itertools.islice(turn, share))
    random.Random(seed).shuffle(names)
    return names[:count]


class Memory:
    """MiB of each part of the service: now, and the most in the time since it was made.

    The kernel keeps the peak of a process. Decoders come and go: they are looked at every 100 ms,
    and what they share counts once.
    """

    def __init__(self, scorer: RunningScorer) -> None:
        self._scorer = scorer
        self._alone = {name: scorer.processes()[name] for name in _ALONE}
        for process in itertools.chain(*self._alone.values()):
            Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak begins anew
        self._decoders_peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def now(self) -> dict[str, float]:
        """What each has."""
        return {name: status_mib(processes, "VmRSS") for name, processes in self._alone.items()} | {
            _DECODERS: mib(self._scorer.processes()[_DECODERS])
        }

    def peak(self) -> dict[str, float]:
        """The most that each had; ends the look at the decoders."""
        self._stop.set()
        self._thread.join()
        return {name: status_mib(processes, "VmHWM") for name, processes in self._alone.items()} | {
            _DECODERS: self._decoders_peak
        }

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._decoders_peak = max(self._decoders_peak, mib(self._scorer.processes()[_DECODERS]))


def send(
    scorer: RunningScorer, images: Mapping[str, bytes], names: Sequence[str], limit_s: float
) -> dict[str, Counter[str]]:
    """Send them in this order, as many at once as there are callers; the answers by name."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    waiting, lock = iter(names), threading.Lock()
    end = time.monotonic() + limit_s

    def call(caller: str) -> None:
        with scorer.channel() as channel:
            while time.monotonic() < end:
                with lock:
                    name = next(waiting, None)
                if name is None:
                    return
                answer = scorer.score(channel, caller, images[name], _TIMEOUT_S)
                with lock:
                    answers[name][answer] += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in _CALLERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def wrong(answers: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """The answers that an image of their name should not have got."""
    found = {
        name: {a: n for a, n in codes.items() if a != _REFUSALS.get(name, "OK")} for name, codes in answers.items()
    }
    return {name: codes for name, codes in found.items() if codes}


def table(before: Mapping[str, float], peak: Mapping[str, float], settled: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each part of the service, in MiB."""
    return [
        {"part": name, "before, MiB": round(value), "peak": round(peak[name]), "settled": round(settled[name])}
        for name, value in before.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=12.0, help="send no more after that")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for serving_memory.json and .md")
    arguments = parser.parse_args()
    kinds: dict[str, Callable[[], bytes]] = {**REFUSED, **ACCEPTED, **LIGHT}
    names = order(arguments.images)
    images = {name: kinds[name]() for name in sorted(set(names))}
    machine, versions = record.machine(), record.versions(["pillow", "pillow_heif", "grpcio", "ray"])
    with running_scorer(arguments.model, _CALLERS) as scorer:
        memory = Memory(scorer)
        before, began = memory.now(), time.monotonic()
        answers = send(scorer, images, names, 60 * arguments.minutes)
        seconds = time.monotonic() - began
        time.sleep(_SETTLE_S)
        settled, peak = memory.now(), memory.peak()
    rows = table(before, peak, settled)
    mistakes, sent = wrong(answers), sum(codes.total() for codes in answers.values())
    codes = sum(answers.values(), Counter[str]())
    result = {"machine": machine, "versions": versions, "images": sent, "seconds": seconds, "answers": answers}
    record.write_json("serving_memory", {**result, "wrong": mistakes, "memory": rows}, arguments.out)
    notes = [
        f"{sent} of {len(names)} images in {seconds:.0f} s: {', '.join(f'{code} {n}' for code, n in codes.most_common())}. "
        f"Settled: {_SETTLE_S:g} s after the last one. Unexpected answers: {mistakes or 'none'}.",
        record.describe(machine, versions),
    ]
    record.write_markdown(
        "serving_memory", "Memory of the service under the dearest images", rows, notes, arguments.out
    )
    sys.stdout.write("\n\n".join([record.markdown_table(rows), *notes]) + "\n")
    return int(bool(mistakes) or sent < len(names))


if __name__ == "__main__":
    sys.exit(main())
