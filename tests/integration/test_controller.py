"""The real loop on roles that sleep: every group is used once, and none is too old."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.reward import RewardScorer
from bench.simulated import Latency, LatencyBoard, SimulatedLearner, SimulatedWorker
from cluster.controller import Hooks
from cluster.loop import running_loop
from rapo.config import Config, load_config
from rapo.errors import RoleError
from rapo.records import Group, ImageRecord
from tests.integration.conftest import SMALL

pytestmark = pytest.mark.integration

STEPS = 12
LATENCY = Latency(engine_step=0.01, learner_step=0.25, load=0.02, publish=0.02, tokens=20.0)


@ray.remote(concurrency_groups={"health": 1})
class RecordingScorer(RewardScorer.__ray_metadata__.modified_class):  # type: ignore[attr-defined, name-defined, misc]
    """Says which groups it was given."""

    def score(self, *groups: Group) -> tuple[Any, ...]:
        receipt, *shares = super().score(*groups)
        receipt["metrics"]["groups"] = [group.uid for group in groups]
        return receipt, *shares


@pytest.fixture(scope="module")
def board(local_ray: None) -> Any:
    return LatencyBoard.options(name="latency").remote(LATENCY)  # type: ignore[attr-defined]


def rows_of(config: Config, folder: Path, hooks: Hooks | None = None) -> list[dict[str, Any]]:
    records = [
        ImageRecord(f"r/{i}", "s", "train", i / 64, i / 64, (0.0, 1.0), data=bytes([i % 256]) * 16) for i in range(64)
    ]
    folder.mkdir()
    roles = {"worker": SimulatedWorker, "learner": SimulatedLearner, "scorer": RecordingScorer}
    with running_loop(config, folder, folder, hooks=hooks, **roles) as controller:
        controller.run(records, [])
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def configured(eta: int, in_flight: str) -> Config:
    overrides = (f"rapo.max_staleness={eta}", f"rapo.in_flight={in_flight}", f"rapo.steps={STEPS}", "rapo.select=last")
    return load_config(None, (*SMALL, *overrides))


def test_every_group_is_used_once_and_none_is_too_old(board: Any, tmp_path: Path) -> None:
    for eta, in_flight in ((0, "finish"), (1, "continue"), (2, "finish")):
        rows = rows_of(configured(eta, in_flight), tmp_path / f"{eta}")
        assert len(rows) == STEPS
        used = Counter(uid for row in rows for uid in row["groups"])
        assert set(used.values()) == {1}
        assert len(used) == STEPS * 8
        assert max(row["staleness_worst"] for row in rows) <= eta
        if eta == 0:
            expected = [[uid.split("/", 1)[0] for uid in row["groups"]] for row in rows]
            assert expected == [[str(step)] * 8 for step in range(STEPS)]
        else:
            assert any(row["staleness_worst"] > 0 for row in rows)
        assert all(0.0 <= row[f"idle_{side}"] <= 1.0 for row in rows for side in ("rollout", "learner"))


@pytest.mark.parametrize("eta", [0, 1])
def test_a_worker_that_does_not_take_over_new_weights_is_named(board: Any, tmp_path: Path, eta: int) -> None:
    ray.get(board.write.remote(dataclasses.replace(LATENCY, load=60.0)), timeout=30)
    limits = (
        f"rapo.max_staleness={eta}",
        "rollout.load_timeout_s=1",
        "rollout.generate_timeout_s=4",
        "rapo.select=last",
    )
    try:
        with pytest.raises(RoleError, match=r"rollout worker \d+ on .* did not load its weights within 1 s"):
            rows_of(load_config(None, (*SMALL, *limits)), tmp_path / "hung")
    finally:
        ray.get(board.write.remote(LATENCY), timeout=30)
