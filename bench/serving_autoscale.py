"""Replicas that follow the load: from one to two and back while callers ask, with how long each
part takes.

    python -m bench.serving_autoscale --model DIR/export [--callers 16] [--most 2]

Callers come at once and stay until the second replica has answered for a while; then one of them
stays. Writes `bench/results/serving_autoscale.json`; exit code 1 where a call failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.serving_load import make_images, scorer_server
from bench.support import record
from rapo.client.sync import CallError, ScorerClient
from rapo.config import load_config
from rapo.models.card import read_card, with_card

_LIMIT_S = 300.0
_POLL_S = 0.2


@dataclass
class Crowd:
    """Callers in threads, each waiting for its answer; `wanted` of them ask, the others rest."""

    address: str
    images: list[bytes]
    wanted: int = 1
    done: list[tuple[float, str]] = field(default_factory=list)
    over: bool = False

    def start(self, callers: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(callers)]
        for thread in threads:
            thread.start()
        return threads

    def _call(self, number: int) -> None:
        turn = number
        with ScorerClient(self.address, timeout=60) as client:
            while not self.over:
                if number >= self.wanted:
                    sleep(0.05)
                    continue
                turn += 97
                try:
                    client.score(self.images[turn % len(self.images)], readout="greedy")
                    status = "OK"
                except CallError as error:
                    status = str(error.code)
                self.done.append((monotonic(), status))

    def rate(self, since: float) -> float:
        """Answers a second since then."""
        return sum(moment >= since for moment, _ in self.done) / (monotonic() - since)


def replicas(application: str) -> Counter[str]:
    """How many replicas are in which state, as Serve tells."""
    from ray import serve

    states: Counter[str] = Counter()
    overview = serve.status().applications.get(application)
    for deployment in overview.deployments.values() if overview is not None else ():
        states.update(
            {str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()}
        )
    return states


def wait_for(true: Callable[[], bool], what: str) -> float:
    """Seconds until it is so. Raises `RuntimeError` where it takes too long."""
    began = monotonic()
    while not true():
        if monotonic() - began > _LIMIT_S:
            raise RuntimeError(f"{what} took more than {_LIMIT_S:g} s")
        sleep(_POLL_S)
    return monotonic() - began


def measure(server: Any, images: list[bytes], callers: int, most: int, hold_s: float) -> dict[str, Any]:
    """One caller, then `callers`, then one again."""
    application = server.applications[server.default]
    crowd = Crowd(server.address, images)
    threads = crowd.start(callers)
    try:
        sleep(hold_s)
        crowd.wanted = callers
        asked = wait_for(lambda: replicas(application).total() >= most, "asking for another replica")
        since = monotonic() - min(asked, hold_s)
        before = crowd.rate(since)
        ready = wait_for(lambda: replicas(application)["RUNNING"] >= most, "starting another replica")
        sleep(hold_s)
        with_more = crowd.rate(monotonic() - hold_s)
        crowd.wanted = 1
        left = wait_for(lambda: replicas(application).total() == 1, "stopping a replica")
        sleep(hold_s)
    finally:
        crowd.over = True
        for thread in threads:
            thread.join(60)
    return {
        "decided_s": asked,
        "ready_s": ready,
        "per_s_with_one": before,
        f"per_s_with_{most}": with_more,
        "back_to_one_s": left,
        "statuses": dict(Counter(status for _, status in crowd.done)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--most", type=int, default=2, help="replicas")
    parser.add_argument("--hold", type=float, default=8.0, help="seconds of each state that are looked at")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    arguments = parser.parse_args()
    scale = {
        "min_replicas": 1,
        "max_replicas": arguments.most,
        "target_ongoing_requests": max(1, arguments.callers // arguments.most),
        "upscale_delay_s": 2,
        "downscale_delay_s": 10,
    }
    overrides = [f"serve.autoscale.{key}={value}" for key, value in scale.items()]
    from cluster.remote.ray_session import prepare_environment

    model = arguments.model.resolve()
    config = with_card(load_config(None, ["serve.port=0", "serve.threads=1", *overrides]), read_card(model))
    prepare_environment(config)
    with tempfile.TemporaryDirectory() as temporary:
        make_images(Path(temporary), 2000)
        images = [path.read_bytes() for path in sorted(Path(temporary).glob("*.jpg"))]
    with scorer_server(model, config) as server:
        result = measure(server, images, arguments.callers, arguments.most, arguments.hold)
    result = {"machine": record.machine(), "callers": arguments.callers, "autoscale": scale, **result}
    record.write_json("serving_autoscale", result, arguments.out)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0 if set(result["statuses"]) == {"OK"} else 1


if __name__ == "__main__":
    sys.exit(main())
