"""What cannot take turns on one GPU is refused, each in a line that says what to set."""

from __future__ import annotations

import pytest

from cluster.cli import check_fit
from cluster.cli.check import problems
from cluster.cli.check_fit import colocation_problems, machine_problems
from cluster.cli.nodes.placement import place
from cluster.cli.nodes.probe import Node
from cluster.remote.needs import needs_of
from cluster.remote.ray_session import logical_cpus
from rapo.config import load_config

SHARED = (
    *("rollout.placement=colocate", "rapo.max_staleness=0", "learner.workers=2", "rollout.workers=2"),
    *("learner.gpus=1", "rollout.gpus=1"),
)


def found(*overrides: str) -> list[str]:
    return list(colocation_problems(load_config(None, (*SHARED, *overrides))))


def test_one_key_is_enough():
    assert found() == []
    assert found("rollout.gpus=0", "learner.gpus=0") == []
    assert found("rollout.workers=1", "rollout.max_workers=8") == []
    assert list(colocation_problems(load_config(None, ("rapo.max_staleness=2", "rapo.in_flight=continue")))) == []


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("rapo.max_staleness=1", "set rapo.max_staleness = 0"),
        ("rapo.in_flight=continue", "set rapo.in_flight = 'finish'"),
        ("rollout.engine.tensor_parallel_size=2", "rollout.workers = 2 is more than learner.workers = 2"),
        ("rollout.weight_transport=broadcast", "set rollout.weight_transport = 'object_store'"),
        ("rollout.workers=3", "rollout.workers = 3 is more than learner.workers = 2"),
        ("rollout.autoscale.enabled=true", "rollout.autoscale.enabled = true cannot add"),
        ("rollout.gpus=0", "rollout.gpus = 0, learner.gpus = 1: set both to 1"),
        ("rollout.gpus=0.45", "rollout.gpus = 0.45, learner.gpus = 1: set both to 1"),
        ('rollout.labels={"zone"="a"}', "leave rollout.labels out"),
    ],
)
def test_what_cannot_take_turns_is_refused_in_a_line(override, advice):
    (line,) = found(override)
    assert advice in line
    assert "\n" not in line


def test_a_split_worker_shares_with_as_many_ranks_as_its_model_has_parts():
    split = ("rollout.engine.tensor_parallel_size=2", "learner.workers=4")
    assert found(*split) == found(*split, "rollout.gpus=2") == found(*split, "rollout.gpus=0", "learner.gpus=0") == []
    (line,) = found(*split, "learner.workers=5")
    assert "learner.workers = 5 is no multiple of rollout.engine.tensor_parallel_size = 2" in line
    (line,) = found(*split, "rollout.workers=3")
    assert "2 learner ranks beside each worker" in line
    (line,) = found(*split, "rollout.gpus=0")
    assert "rollout.gpus = 0, learner.gpus = 1" in line
    (shared, _) = needs_of(load_config(None, (*SHARED, *split, "learner.cpus=2", "rollout.cpus=1")))["rapo"]
    assert str(shared) == "2 ranks-and-worker groups (5 CPU, 2 GPU each)"


def test_a_run_is_refused_and_not_only_checked():
    config = load_config(None, (*SHARED, "learner.gpus=0", "rollout.gpus=0", "rapo.in_flight=continue"))
    assert any("rapo.in_flight" in line for line in problems(config, ["rapo"]))


def test_a_gpu_that_two_share_is_counted_once(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(check_fit, "nvidia_gpus", lambda: [object()] * 2)
    monkeypatch.setattr(check_fit, "_OTHER_GPUS", check_fit.Path("/nowhere"))

    def lacking(*overrides: str) -> list[str]:
        config = load_config(None, (*SHARED, *overrides))
        return [line for line in machine_problems(config, ["rapo", "evaluate"]) if "GPUs, this machine" in line]

    assert not lacking()
    assert "needs 4 GPUs" in lacking("rollout.placement=apart")[0]
    assert "needs 3 GPUs" in lacking("learner.workers=3")[0]


def test_a_cluster_and_a_local_ray_have_room_for_both_in_one_place():
    config = load_config(None, (*SHARED, "learner.cpus=2", "rollout.cpus=1", "rollout.max_workers=8"))
    nodes = [Node("n0", {"CPU": 4.0, "GPU": 1.0}, {}, None), Node("n1", {"CPU": 3.0, "GPU": 1.0}, {}, None)]
    shared, reward = place(needs_of(config)["rapo"], nodes)
    assert shared[1] == {"n0": 1, "n1": 1}
    assert reward[1] == {"n0": 1}
    assert logical_cpus(config) >= 2 * 3 + 1
