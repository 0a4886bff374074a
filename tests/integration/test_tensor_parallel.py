"""A rollout worker whose model is split over two processes: its weights are replaced part by part,
a version that does not verify is refused, and the next one is taken."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from cluster.remote.weight_source import WeightVersion
from cluster.rollout.fleet import Fleet
from rapo.config import load_config
from rapo.policy.trainer import load_model
from rapo.policy.weight_packing import model_tensors, pack
from rapo.records import ImageRecord
from tests.integration.conftest import LESSONS, make_image
from tests.small import SMALL

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def split_fleet(local_ray: None, taught_model: Path) -> Iterator[Fleet]:
    settings = (*SMALL, "rollout.workers=1", "rollout.engine.tensor_parallel_size=2", "evaluate.readout=greedy")
    fleet = Fleet(load_config(None, settings))
    fleet.start(taught_model, 0)
    fleet.ready()
    yield fleet
    fleet.close()


def records() -> list[ImageRecord]:
    made = []
    for shade in list(LESSONS)[:2]:
        stream = io.BytesIO()
        make_image(shade).save(stream, format="PNG")
        made.append(ImageRecord(f"{shade}", "s", "train", 0.5, 0.5, (0.0, 1.0), data=stream.getvalue()))
    return made


def published(folder: Path, version: int, *, forget: bool = False, damage: bool = False) -> WeightVersion:
    """The weights of a folder as a version; `forget` makes its head say something else."""
    tensors: list[tuple[str, Any]] = [
        (name, tensor.clone()) for name, tensor in model_tensors(load_model(folder, "float32")) if tensor is not None
    ]
    if forget:
        tensors = [(name, tensor.roll(1, 0) if "lm_head" in name else tensor) for name, tensor in tensors]
    *chunks, manifest = pack(tensors, version, 2**20)
    if damage:
        chunks[-1] = [np.zeros_like(data) for data in chunks[-1]]
    return WeightVersion(version, (ray.put(manifest),), tuple(ray.put(chunk) for chunk in chunks))


@pytest.mark.long
def test_a_split_model_answers_loads_refuses_and_loads_again(split_fleet: Fleet, taught_model: Path) -> None:
    taught = [prediction.score for prediction in split_fleet.predictions(records())]
    assert taught == pytest.approx([0.21, 0.87], abs=0.02)

    split_fleet.load(published(taught_model, 1, forget=True))
    split_fleet.loaded(60.0)
    assert [p.score for p in split_fleet.predictions(records())] != taught

    split_fleet.load(published(taught_model, 2, damage=True))
    with pytest.raises(Exception, match="does not match its checksum"):
        split_fleet.loaded(60.0)

    split_fleet.load(published(taught_model, 3))
    split_fleet.loaded(60.0)
    assert [p.score for p in split_fleet.predictions(records())] == taught
    (worker,) = split_fleet.statuses()
    assert worker.version == 3
    assert not list(Path("/dev/shm").glob("rapo-weights-*"))


def test_a_runner_that_keeps_no_requests_needs_no_images_again() -> None:
    """vLLM's newer runner, which does not run on CPUs."""
    from rapo.inference.weight_loader import WeightLoader

    loader: Any = WeightLoader()
    loader.model_runner = SimpleNamespace(encoder_cache=object())
    loader.rapo_keep_images({"1": ["pixels"]})
    known = SimpleNamespace(mm_features=None)
    loader.model_runner = SimpleNamespace(requests={"1": known, "2": SimpleNamespace()})
    loader.rapo_keep_images({"1": ["pixels"]})
    assert known.mm_features == ["pixels"]
