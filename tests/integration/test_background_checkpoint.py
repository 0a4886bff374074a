"""A checkpoint that real ranks write while they train: it is that of the step at which it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from cluster.learner.group import LearnerGroup
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.waiting import finish
from rapo.aescot.writer import phrases
from rapo.algorithm.partition import share_out
from rapo.config import load_config
from rapo.families.tiny_model import build_tiny_model
from rapo.policy.weight_packing import unpack
from rapo.records import Group, ScoredGroup, WeightManifest
from rapo.util.file_manifest import damage
from tests.integration.test_roles import image_refs, records
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.gpu]

CONFIG = load_config(None, SMALL)


def scored(uid: str, seed: int) -> ScoredGroup:
    """A group of random tokens with made-up advantages."""
    rng = np.random.default_rng(seed)
    ids = tuple(rng.integers(20, 60, length).astype(np.int32) for length in (5, 9 - seed))
    group = Group(
        uid=f"0/{uid}",
        image_uid=uid,
        dataset="s",
        target=0.5,
        step=0,
        weight_version=0,
        prompt_tokens=100,
        token_ids=ids,
        logprobs=tuple(np.full(len(row), -6.0, np.float32) for row in ids),
        texts=("", ""),
        finish_reasons=("stop", "stop"),
    )
    advantages = rng.normal(size=2)
    return ScoredGroup(group, advantages, advantages, advantages)


class Steps:
    """The same step again and again, on three groups for two ranks."""

    def __init__(self) -> None:
        batch = records(3)
        self._images = image_refs(batch)
        groups = [scored(record.uid, seed) for seed, record in enumerate(batch)]
        self._shares = share_out(groups, ranks=CONFIG.learner.workers, micro_batch_groups=1)
        self._refs = [ray.put(share) for share in self._shares]

    def run(self, learners: RecoveringLearnerGroup) -> dict[str, float]:
        wanted = [{g.group.image_uid: self._images[g.group.image_uid] for g in share.groups} for share in self._shares]
        figures = finish(learners.step(self._refs, wanted))
        return {name: value for name, value in figures.items() if name != "learner_busy_s"}


def weights(learners: RecoveringLearnerGroup, version: int) -> dict[str, Any]:
    made = finish(learners.published(learners.publish(version)))
    chunks = ray.get(list(made.chunks))
    return {
        name: tensor.numpy().copy()
        for name, tensor in unpack(WeightManifest.joined(ray.get(list(made.manifests))), chunks)
    }


def test_a_state_written_beside_a_step_is_that_of_the_step_before(local_ray: None, tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model", CONFIG.policy.embedded, 0, phrases())
    steps, found = Steps(), []
    for resumed in (False, True):
        learners = RecoveringLearnerGroup(CONFIG, lambda: LearnerGroup(CONFIG))
        try:
            finish(learners.ready(learners.start(tmp_path / "model")))
            if resumed:
                assert finish(learners.load_state(tmp_path / "state", universal=False)) == 1
                found.append((steps.run(learners), weights(learners, 2)))
            else:
                steps.run(learners)
                writing = learners.save_state(tmp_path / "state", beside=True)
                next(writing)
                figures = steps.run(learners)
                entries = finish(writing)
                found.append((figures, weights(learners, 2)))
        finally:
            learners.close()
    assert damage(tmp_path / "state", entries) is None
    for rank in range(CONFIG.learner.workers):
        assert any(f"_rank_{rank}_" in name and "optim_states" in name for name in entries), "each wrote its own"
    (one, first), (other, second) = found
    assert one == other
    assert all(np.array_equal(first[name], second[name]) for name in first)
