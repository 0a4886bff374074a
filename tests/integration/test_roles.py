"""Rollout workers and learner ranks on the real engines: weights, versions, ZeRO stages, deaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from cluster.fleet import Fleet
from cluster.learners import LearnerGroup
from cluster.weights import WeightVersion
from rapo.aescot.writer import phrases
from rapo.balance import share_out
from rapo.config import Config, LoRAConfig, load_config
from rapo.datasets.scenes import render_scene
from rapo.errors import RoleError, WeightError
from rapo.policy.embedded import build_embedded
from rapo.records import ImageRecord, ScoredGroup
from tests.integration.conftest import SMALL

pytestmark = pytest.mark.integration


def records(count: int) -> list[ImageRecord]:
    import io

    from PIL import Image

    made = []
    for number in range(count):
        scene = render_scene(np.random.default_rng(number), 84)
        stream = io.BytesIO()
        Image.fromarray(scene.image).save(stream, format="PNG")
        made.append(
            ImageRecord(f"s/{number}", "s", "train", scene.score, scene.score, (0.0, 1.0), data=stream.getvalue())
        )
    return made


def draw(fleet: Fleet, batch: list[ImageRecord], step: int) -> list[Any]:
    """Refs of one group per record."""
    groups, _ = fleet.groups(fleet.request(batch, step))
    return groups


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy, sharpened so that what it writes depends on its weights and on the picture."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("model")
    config = load_config(None, SMALL)
    build_embedded(folder, config.policy.embedded, 0, phrases())
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fleet(local_ray: None, small_config: Config, model_dir: Path) -> Iterator[Fleet]:
    workers = Fleet(small_config)
    workers.ready(workers.start(model_dir, 0))
    yield workers
    workers.close()


def trained(config: Config, model_dir: Path, groups: list[Any], images: Any) -> tuple[WeightVersion, dict[str, float]]:
    """One step of a fresh learner group on given groups with made-up advantages; the version it publishes."""
    rng = np.random.default_rng(0)
    scored = []
    for group in ray.get(groups):
        advantages = rng.normal(size=len(group.texts))
        scored.append(ScoredGroup(group, advantages, advantages, advantages))
    # Five groups in micro-batches of one on two ranks: one rank has nothing to do in the last.
    shares = share_out(scored, ranks=config.learner.workers, micro_batch_groups=1)
    assert {len(share.groups) for share in shares} == {2, 3}
    learners = LearnerGroup(config)
    try:
        learners.ready(learners.start(model_dir))
        metrics = learners.step([ray.put(share) for share in shares], images)
        weights = learners.publish(1)
        return WeightVersion(1, ray.get(weights.manifest), tuple(ray.get(list(weights.chunks)))), metrics
    finally:
        learners.close()


def tensors(weights: WeightVersion) -> dict[str, np.ndarray]:
    from rapo.policy.weights import unpack

    return {name: tensor.numpy().copy() for name, tensor in unpack(weights.manifest, weights.chunks)}


def base_tensors(model_dir: Path) -> list[tuple[str, Any]]:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rapo.policy.weights import model_tensors

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    return [(name, tensor) for name, tensor in model_tensors(model) if tensor is not None]


@pytest.mark.parametrize("lora", [LoRAConfig(), LoRAConfig(rank=4, alpha=8.0)], ids=["full", "lora"])
def test_zero_stages_make_the_same_step_and_the_fleet_takes_it_over(
    fleet: Fleet, small_config: Config, model_dir: Path, lora: LoRAConfig
) -> None:
    batch = records(5)
    groups = draw(fleet, batch, step=0)
    images = ray.put({record.uid: record.data for record in batch})
    made: dict[int, dict[str, np.ndarray]] = {}
    for stage in (2, 3):
        learner = small_config.learner.model_copy(update={"zero_stage": stage, "chunk_mib": 1, "lora": lora})
        # With LoRA also the reference policy, which then gathers under ZeRO-3, on the rank that has nothing to do, too.
        loss = small_config.rapo.loss.model_copy(update={"kl_beta": 0.05 if lora.rank else 0.0})
        rapo = small_config.rapo.model_copy(update={"loss": loss})
        config = small_config.model_copy(update={"learner": learner, "rapo": rapo})
        weights, metrics = trained(config, model_dir, groups, images)
        assert abs(metrics["mismatch_kl"]) < 1e-6
        assert metrics["grad_norm"] > 0
        made[stage] = tensors(weights)
    assert made[2].keys() == made[3].keys()
    for name, tensor in made[2].items():
        np.testing.assert_allclose(tensor, made[3][name], rtol=1e-4, atol=1e-5, err_msg=name)
    base = {name: tensor.numpy() for name, tensor in base_tensors(model_dir)}
    assert list(made[2]) == list(base)
    moved = {name for name in base if not np.array_equal(base[name], made[2][name])}
    assert {name for name in moved if ".visual." in name} == {
        name for name in base if ".visual." in name and not lora.rank
    }
    assert any(".visual." not in name for name in moved)

    before = [ray.get(ref) for ref in groups]
    fleet.loaded(fleet.load(WeightVersion(1, ray.put(weights.manifest), tuple(ray.put(c) for c in weights.chunks))))
    after = [ray.get(ref) for ref in draw(fleet, batch, step=0)]
    assert {g.weight_version for g in after} == {1}
    assert any(
        not np.array_equal(a, b)
        for x, y in zip(before, after, strict=True)
        for a, b in zip(x.logprobs, y.logprobs, strict=True)
    )
    fleet.load_folder(model_dir, 0)
    again = [ray.get(ref) for ref in draw(fleet, batch, step=0)]
    for x, y in zip(before, again, strict=True):
        assert x.texts == y.texts
        assert all(np.array_equal(a, b) for a, b in zip(x.logprobs, y.logprobs, strict=True))


def test_groups_do_not_depend_on_who_draws_them(fleet: Fleet) -> None:
    batch = records(6)
    whole = [ray.get(ref) for ref in draw(fleet, batch, step=3)]
    alone = [ray.get(draw(fleet, [record], step=3)[0]) for record in batch[::-1]][::-1]
    for a, b in zip(whole, alone, strict=True):
        assert a.uid == b.uid
        assert a.texts == b.texts
    assert len({whole[0].texts[k] for k in range(4)}) > 1
    other = ray.get(draw(fleet, batch[:1], step=4)[0])
    assert other.texts != whole[0].texts


def test_a_damaged_version_is_refused_and_not_served(fleet: Fleet, model_dir: Path) -> None:
    from rapo.policy.weights import pack

    *chunks, manifest = pack(base_tensors(model_dir), 9, 2**20)
    before = ray.get(draw(fleet, records(2), step=5))
    # Two shards of a fused parameter have come when the third does not verify: they must not complete the next version.
    (spec,) = [
        spec for spec in manifest.tensors if spec.name.endswith("language_model.layers.1.self_attn.v_proj.weight")
    ]
    damaged = [chunk.copy() for chunk in chunks]
    damaged[spec.chunk][spec.offset + 11] ^= 1
    with pytest.raises(WeightError, match="checksum"):
        fleet.loaded(fleet.load(WeightVersion(9, ray.put(manifest), tuple(ray.put(c) for c in damaged))))
    with pytest.raises(RoleError, match="no verified weights"):
        fleet.predictions(records(2))
    fleet.loaded(fleet.load(WeightVersion(9, ray.put(manifest), tuple(ray.put(c) for c in chunks))))
    assert {p.weight_version for p in fleet.predictions(records(2))} == {9}
    for x, y in zip(before, ray.get(draw(fleet, records(2), step=5)), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(x.logprobs, y.logprobs, strict=True))


def test_a_killed_worker_is_named_at_once(local_ray: None, small_config: Config, model_dir: Path) -> None:
    single = small_config.model_copy(update={"rollout": small_config.rollout.model_copy(update={"workers": 1})})
    workers = Fleet(single)
    try:
        (facts,) = workers.ready(workers.start(model_dir, 0))
        os.kill(facts["pid"], signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(RoleError, match="rollout worker 0 on"):
            draw(workers, records(2), step=0)
        assert time.monotonic() - began < 30
    finally:
        workers.close()
