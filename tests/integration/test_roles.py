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

from cluster.learner.group import LearnerGroup
from cluster.remote.faults import Fault
from cluster.remote.waiting import finish
from cluster.remote.weight_source import WeightVersion
from cluster.rollout.fleet import Fleet
from cluster.rollout.tasks import Task
from cluster.training.listener import TrainingListener
from rapo.aescot.writer import phrases
from rapo.algorithm.partition import share_out
from rapo.config import Config, LoRAConfig, load_config
from rapo.datasets.scenes import render_scene
from rapo.errors import WeightError
from rapo.families.tiny_model import build_tiny_model
from rapo.images.decode import decode_image
from rapo.records import Chunk, ImageRecord, ScoredGroup, WeightManifest
from tests.limits import PATIENCE_S
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.gpu]

#: The manifest and the chunks of a weight version.
Published = tuple[WeightManifest, list[Chunk]]


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


def image_refs(batch: list[ImageRecord]) -> dict[str, Any]:
    return {record.uid: ray.put(np.frombuffer(record.data or b"", np.uint8)) for record in batch}


def draw(fleet: Fleet, batch: list[ImageRecord], step: int) -> list[Any]:
    """Refs of one group per record."""
    for ticket, (record, image) in enumerate(zip(batch, image_refs(batch).values(), strict=True)):
        fleet.submit(Task(ticket, record, image, step))
    drawn: dict[int, Any] = {}
    deadline = time.monotonic() + PATIENCE_S
    while len(drawn) < len(batch):
        assert time.monotonic() < deadline
        drawn |= {one.task.ticket: one.group for one in fleet.poll(1.0)}
    return [drawn[ticket] for ticket in range(len(batch))]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy, sharpened so that what it writes depends on its weights and on the image."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("model")
    config = load_config(None, SMALL)
    build_tiny_model(folder, config.policy.embedded, 0, phrases())
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fleet(local_ray: None, small_config: Config, model_dir: Path) -> Iterator[Fleet]:
    workers = Fleet(small_config, listener=REPORTS)
    workers.start(model_dir, 0)
    workers.ready()
    yield workers
    workers.close()


class Reports(TrainingListener):
    """Keeps the faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, fault: Fault) -> None:
        self.faults.append(fault)


REPORTS = Reports()


def trained(
    config: Config, model_dir: Path, groups: list[Any], images: dict[str, Any]
) -> tuple[Published, dict[str, float]]:
    """One step of a fresh learner group on given groups with made-up advantages: what it publishes,
    and its figures."""
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
        finish(learners.ready(learners.start(model_dir)))
        wanted = [{g.group.image_uid: images[g.group.image_uid] for g in share.groups} for share in shares]
        metrics = finish(learners.step([ray.put(share) for share in shares], wanted))
        weights = learners.publish(1)
        finish(learners.published(weights))
        return (WeightManifest.joined(ray.get(list(weights.manifests))), ray.get(list(weights.chunks))), metrics
    finally:
        learners.close()


def tensors(published: Published) -> dict[str, np.ndarray]:
    from rapo.policy.weight_packing import unpack

    return {name: tensor.numpy().copy() for name, tensor in unpack(*published)}


def base_tensors(model_dir: Path) -> list[tuple[str, Any]]:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rapo.policy.weight_packing import model_tensors

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    return [(name, tensor) for name, tensor in model_tensors(model) if tensor is not None]


@pytest.mark.long
@pytest.mark.parametrize("lora", [LoRAConfig(), LoRAConfig(rank=4, alpha=8.0)], ids=["full", "lora"])
def test_zero_stages_make_the_same_step_and_the_fleet_takes_it_over(
    fleet: Fleet, small_config: Config, model_dir: Path, lora: LoRAConfig
) -> None:
    batch = records(5)
    groups = draw(fleet, batch, step=0)
    images = image_refs(batch)
    made: dict[int, dict[str, np.ndarray]] = {}
    for stage in (2, 3):
        learner = small_config.learner.model_copy(update={"zero_stage": stage, "chunk_mib": 1, "lora": lora})
        # With LoRA also the reference policy, which then gathers under ZeRO-3, on the rank that has
        # nothing to do, too.
        loss = small_config.rapo.loss.model_copy(update={"kl_beta": 0.05 if lora.rank else 0.0})
        rapo = small_config.rapo.model_copy(update={"loss": loss})
        config = small_config.model_copy(update={"learner": learner, "rapo": rapo})
        published, metrics = trained(config, model_dir, groups, images)
        assert abs(metrics["mismatch_kl"]) < 1e-6
        assert metrics["grad_norm"] > 0
        made[stage] = tensors(published)
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
    manifest, chunks = published
    fleet.load(WeightVersion(1, (ray.put(manifest),), tuple(ray.put(chunk) for chunk in chunks)))
    fleet.loaded(60)
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
    from rapo.policy.weight_packing import checksum, pack

    *chunks, manifest = pack(base_tensors(model_dir), 9, 2**20)
    before = ray.get(draw(fleet, records(2), step=5))
    # Two shards of a fused parameter have come when the third does not verify: they must not
    # complete the next version.
    (spec,) = [
        spec for spec in manifest.tensors if spec.name.endswith("language_model.layers.1.self_attn.v_proj.weight")
    ]
    damaged = [[part.copy() for part in chunk] for chunk in chunks]
    damaged[spec.chunk][spec.place][11] ^= 1
    fleet.load(WeightVersion(9, (ray.put(manifest),), tuple(ray.put(c) for c in damaged)))
    with pytest.raises(WeightError, match="checksum"):
        fleet.loaded(60)
    assert len(fleet) == 0, "nobody may be given work"
    stored = tuple(ray.put(chunk) for chunk in chunks)
    fleet.load(WeightVersion(9, (ray.put(manifest),), stored))
    fleet.loaded(60)
    assert {p.weight_version for p in fleet.predictions(records(2))} == {9}
    # The engine read the store's own pages, which all readers of a node share: it must not have
    # written to them.
    for number, chunk in enumerate(ray.get(list(stored))):
        held = [spec for spec in manifest.tensors if spec.chunk == number]
        assert [checksum(part) for part in chunk] == [spec.checksum for spec in held]
    for x, y in zip(before, ray.get(draw(fleet, records(2), step=5)), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(x.logprobs, y.logprobs, strict=True))


@pytest.mark.long
def test_groups_continue_over_an_update_with_each_tokens_version(
    local_ray: None, small_config: Config, model_dir: Path
) -> None:
    """Tokens before and after the update have the log-probs that the learner gives them under the
    weights that drew them."""
    import torch

    from rapo.policy.batch import collate, pack_rows
    from rapo.policy.forward import GroupPolicy
    from rapo.policy.processing import PolicyProcessor
    from rapo.policy.trainer import load_model
    from rapo.policy.weight_packing import model_tensors, pack

    updates = {
        "rapo": small_config.rapo.model_copy(update={"in_flight": "continue"}),
        "rollout": small_config.rollout.model_copy(update={"workers": 1}),
        "policy": small_config.policy.model_copy(update={"max_completion_tokens": 400}),
    }
    config = small_config.model_copy(update=updates)
    models = [load_model(str(model_dir), "float32") for _ in range(2)]
    with torch.no_grad():
        models[1].lm_head.weight.mul_(0.8)
        models[1].model.language_model.layers[0].mlp.up_proj.weight.mul_(1.3)
    *chunks, manifest = pack([(n, t) for n, t in model_tensors(models[1]) if t is not None], 1, 2**20)
    workers = Fleet(config)
    batch = records(12)  # too many tokens for one step of the engine when all of them are computed anew
    try:
        workers.start(model_dir, 0)
        workers.ready()
        draw(workers, batch, step=0)  # warm
        began = time.monotonic()
        draw(workers, batch, step=1)
        usual = time.monotonic() - began
        for ticket, (record, image) in enumerate(zip(batch, image_refs(batch).values(), strict=True)):
            workers.submit(Task(ticket, record, image, 2))
        weights = WeightVersion(1, (ray.put(manifest),), tuple(ray.put(chunk) for chunk in chunks))
        drawn = workers.poll(0.0)
        time.sleep(usual / 2)  # so that the update comes while tokens are drawn
        workers.load(weights)
        workers.loaded(60)
        deadline = time.monotonic() + PATIENCE_S
        while len(drawn) < len(batch):
            assert time.monotonic() < deadline
            drawn += workers.poll(1.0)
    finally:
        workers.close()
    groups = [ray.get(one.group) for one in drawn]
    mixed = [group for group in groups if group.token_versions is not None]
    assert mixed, "no group was under way at the update"
    assert all(one.receipt.version == group.weight_version for one, group in zip(drawn, groups, strict=True))
    processor = PolicyProcessor(model_dir)
    encoded = {record.uid: record.data or b"" for record in batch}
    for group in mixed:
        assert group.token_versions is not None
        assert {int(v) for row in group.token_versions for v in np.unique(row)} == {0, 1}
        for row in group.token_versions:
            assert np.all(np.diff(row) >= 0)
        versions = torch.from_numpy(np.concatenate(group.token_versions))
        image = decode_image(encoded[group.image_uid])
        made = collate([processor.prepare(image)], [group.token_ids], processor.tokenizer.pad_token_id)
        behaviour = pack_rows([group.logprobs], made.completion_mask)
        with torch.no_grad():
            exact = [GroupPolicy(model, processor.banned_token_ids)(made)[0] for model in models]
        torch.testing.assert_close(behaviour, torch.where(versions == 0, *exact), rtol=1e-4, atol=1e-4)
        assert (exact[0] - exact[1])[versions == 1].abs().max() > 0.01


def test_a_killed_worker_is_replaced_and_its_groups_are_the_same(fleet: Fleet) -> None:
    batch = records(4)
    whole = [ray.get(ref) for ref in draw(fleet, batch, step=7)]
    REPORTS.faults.clear()
    victim = fleet.statuses()[0]
    images = image_refs(batch)
    for ticket, record in enumerate(batch):
        fleet.submit(Task(ticket, record, images[record.uid], 7))
    drawn = {one.task.ticket: one.group for one in fleet.poll(0.0)}
    os.kill(victim.pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while len(drawn) < len(batch):
        assert time.monotonic() < deadline
        drawn |= {one.task.ticket: one.group for one in fleet.poll(1.0)}
    assert [(fault.role, fault.kind) for fault in REPORTS.faults] == [(victim.name, "died")]
    for ticket, group in enumerate(whole):
        assert ray.get(drawn[ticket]).texts == group.texts
    fleet.ready()
    assert len({worker.pid for worker in fleet.statuses()} - {victim.pid}) == 2
