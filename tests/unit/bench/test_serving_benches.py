"""The arithmetic of the serving benchmarks; the engines are not run here."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from bench.determinism import _row
from bench.readouts import gain
from bench.serving import memory, reachable_ports
from bench.serving_load import mean_ratio
from bench.support.attack_images import ACCEPTED, LIGHT, REFUSED
from bench.support.load_client import closed_loop, open_loop, summary
from rapo.config import load_config
from rapo.images.structure import check_structure
from services.replica.decoding import LIGHT_WORK
from tests.listening import Listener


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


def test_the_dearest_images_come_mixed_and_in_equal_numbers() -> None:
    names = memory.order(400)
    assert memory.order(400) == names
    numbers = Counter(names)
    for kind, share in ((ACCEPTED, 40), (LIGHT, 260), (REFUSED, 100)):
        of_kind = [numbers[name] for name in kind]
        assert sum(of_kind) == share
        assert max(of_kind) - min(of_kind) <= 1
    assert set(names[:40]) & set(ACCEPTED)


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_image_is_as_large_as_it_may_be(name: str) -> None:
    assert 0.8 * LIGHT_WORK < check_structure(LIGHT[name](), load_config().image) <= LIGHT_WORK


def test_an_answer_of_the_wrong_kind_is_named() -> None:
    right = {"png_light": Counter(OK=3), "png_profiles": Counter(too_complex=2), "bmp_4_mib": Counter(truncated=1)}
    assert memory.wrong(right) == {}
    answers = {**right, "png_profiles": Counter(OK=1, too_complex=4), "webp_flat": Counter(DEADLINE_EXCEEDED=2, OK=1)}
    assert memory.wrong(answers) == {"png_profiles": {"OK": 1}, "webp_flat": {"DEADLINE_EXCEEDED": 2}}


def test_a_port_on_loopback_is_not_what_another_host_reached_by_its_number() -> None:
    found = [
        Listener("rapo", "0.0.0.0", 50),
        Listener("gcs_server", "127.0.0.1", 50),
        Listener("gcs_server", "127.0.0.1", 51),
    ]
    gcs, gateway = reachable_ports.table(found, {50: "TLS"})
    assert gcs == {"process": "gcs_server", "address": "127.0.0.1", "ports": 2, "from another host": "refused"}
    assert gateway == {"process": "rapo", "address": "0.0.0.0", "ports": 1, "from another host": "TLS"}
