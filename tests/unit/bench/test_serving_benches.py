"""The arithmetic of the serving benchmarks; the engines are not run here."""

from __future__ import annotations

import asyncio
import math

import pytest

from bench.determinism import _row
from bench.readouts import gain
from bench.serving_load import mean_ratio
from bench.support.load_client import closed_loop, open_loop, summary


def test_the_gain_is_paired() -> None:
    targets = [i / 40 for i in range(40)]
    worse = [t + (0.3 if i % 4 == 0 else 0.0) for i, t in enumerate(targets)]
    better = gain(targets, worse, targets)
    low, high = better["srcc_over_greedy_interval"]
    assert 0 < low < better["srcc_over_greedy"] < high
    assert gain(worse, worse, targets) == {"srcc_over_greedy": 0.0, "srcc_over_greedy_interval": [0.0, 0.0]}
    assert gain([None, *targets[1:]], worse, targets)["srcc_over_greedy"] > 0


def test_the_mean_of_ratios_does_not_depend_on_which_is_over_which() -> None:
    values = [1.25, 0.8, 1.6, 1.0]
    mean, low, high = mean_ratio(values)
    assert mean == pytest.approx(1.6**0.25)
    assert low < 1 < mean < high
    assert mean_ratio([1 / value for value in values]) == pytest.approx((1 / mean, 1 / high, 1 / low))
    assert mean_ratio([2.0, 2.0]) == pytest.approx((2.0, 2.0, 2.0))
    alone = mean_ratio([1.5])
    assert alone[0] == pytest.approx(1.5)
    assert math.isnan(alone[1])


def test_one_differing_score_shows() -> None:
    same = _row("s", [[0.1, 0.2, None], [0.1, 0.2, None]], 2)
    assert (same["identical"], same["max_difference"], same["without_score"]) == (3, 0.0, 1)
    other = _row("s", [[0.1, 0.2, None], [0.1, 0.25, None], [0.1, 0.2, 0.3]], 3)
    assert (other["identical"], other["without_score"]) == (1, 0)
    assert other["max_difference"] == pytest.approx(0.05)


def test_goodput_counts_answers_only() -> None:
    told = summary([("OK", 0.1, 16), ("OK", 0.3, 18), ("RESOURCE_EXHAUSTED", 0.001, 0), ("OK", 99.0, 17)], 2.0)
    assert told["goodput_per_s"] == 1.0
    assert told["statuses"] == {"OK": 3, "RESOURCE_EXHAUSTED": 1}
    assert told["p50_ms"] == pytest.approx(200)
    assert told["tokens"] == pytest.approx(17)
    assert summary([("UNAVAILABLE", 0.1, 0)], 1.0)["p99_ms"] is None


def test_closed_and_open_loops_send_what_they_say() -> None:
    seen: list[bytes] = []
    together = [0, 0]

    async def call(image: bytes) -> tuple[str, int]:
        seen.append(image)
        together[0] += 1
        together[1] = max(together)
        await asyncio.sleep(0.01)
        together[0] -= 1
        return "OK", 1

    images = [b"a", b"b", b"c"]
    done = asyncio.run(closed_loop(call, images, 2, 0.1))
    assert len(done) == len(seen) >= 2
    assert together[1] == 2
    assert seen[:2] == [b"a", b"b"]
    count = len(asyncio.run(open_loop(call, images, 200.0, 0.5)))
    assert 50 < count < 150
