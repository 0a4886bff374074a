"""An image that an engine refuses: an error that names it, and no worker is lost over it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from builders import record
from fake_workers import polled, ready, task
from ray.exceptions import RayTaskError

from actors.rollout import RolloutWorker
from rapo.config import load_config
from rapo.errors import ImageError


class Refusing:
    """The thread of an engine that takes no request."""

    busy_seconds = 0.0

    def add(self, image: object, request: object, seed: int) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(ValueError("its prompt has 900 tokens"))
        return future


def worker() -> RolloutWorker:
    made = RolloutWorker("rollout worker 0", load_config(None))
    made._engine_thread = Refusing()  # type: ignore[assignment]
    made._group_sampler = SimpleNamespace(  # type: ignore[assignment]
        prepare=lambda record: SimpleNamespace(encoded=None), predicting=None, seed=lambda record, step: 0
    )
    return made


def test_the_refusal_names_the_image():
    with pytest.raises(ImageError, match=r"image scenes/long\.jpg: its prompt has 900 tokens"):
        asyncio.run(worker().predict([record("scenes/long.jpg")]))


def test_no_worker_is_lost_over_it():
    fleet, actors, faults = ready()
    fleet.submit(task(0))
    fleet.poll(0.0)
    (holder,) = (actor for actor in actors if actor.tickets())
    refusal = ImageError("the engine refuses the image 0", reason="refused")
    holder.in_flight("generate")[0].fail(RayTaskError("generate", "", refusal))
    with pytest.raises(ImageError, match="refuses the image 0"):
        polled(fleet)
    assert not any(actor.killed for actor in actors)
    assert not faults
