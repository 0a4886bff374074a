"""The pools of teachers and judges: how many processes, and how much each has at once."""

from __future__ import annotations

import math

import pytest

from cluster.aescot.stream import _pool
from rapo.config import load_config


@pytest.mark.parametrize(
    ("settings", "blocks", "least", "most"),
    [
        ((), 1, 1, 1),
        (("actors=4",), 100, 1, 4),
        (("actors=4", "min_actors=3"), 100, 3, 4),
        (("actors=4", "min_actors=3"), 2, 2, 2),
    ],
)
def test_a_pool_has_no_more_processes_than_blocks(
    settings: tuple[str, ...], blocks: int, least: int, most: int
) -> None:
    teacher = load_config(None, [f"aescot.teacher.{setting}" for setting in settings]).aescot.teacher
    pool = _pool(teacher, blocks, 32, alone=False)
    assert (pool.min_size, pool.initial_size, pool.max_size) == (least, most, most)


@pytest.mark.parametrize("concurrency", [1, 8, 64, 100])
def test_the_process_of_an_endpoint_has_rows_for_all_of_its_connections(concurrency: int) -> None:
    settings = (
        "kind=openai",
        "model=m",
        "endpoint.base_url=http://127.0.0.1:9/v1",
        f"endpoint.concurrency={concurrency}",
    )
    teacher = load_config(None, [f"aescot.teacher.{setting}" for setting in settings]).aescot.teacher
    pool = _pool(teacher, 100, 32, alone=False)
    assert pool.enable_true_multi_threading
    assert pool.max_concurrent_calls_per_actor == 1 + math.ceil(concurrency / 32)


def test_behind_a_row_that_is_asked_alone_nothing_waits_in_its_process() -> None:
    teacher = load_config().aescot.teacher
    alone, together = (_pool(teacher, 100, 1, alone=alone).max_tasks_in_flight_per_actor for alone in (True, False))
    assert (alone, together) == (1, 2)
