"""Node labels: where a role may run reaches Ray, and its autoscaler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.learner.group import LearnerGroup
from cluster.remote import placement
from cluster.remote.needs import Need, training_needs
from cluster.remote.ray_autoscaler import request_capacity, requested_capacity
from cluster.rollout import worker_handle
from cluster.rollout.fleet import Fleet
from cluster.rollout.membership import Membership
from rapo.config import Config, load_config

SPOT, STEADY = {"ray.io/market-type": "spot"}, {"ray.io/market-type": "on-demand"}


@pytest.fixture
def config() -> Config:
    return load_config(
        overrides=[
            "ray.address=auto",
            'rollout.labels={"ray.io/market-type" = "spot"}',
            'learner.labels={"ray.io/market-type" = "on-demand"}',
            "learner.workers=1",
            "learner.placement=strict_pack",
            "rollout.gpus=1",
        ]
    )


class Launched:
    def __init__(self) -> None:
        self.options: list[Mapping[str, object]] = []

    def __call__(self, *arguments: object, options: Mapping[str, object]) -> object:
        self.options.append(options)
        return object()


def test_a_worker_and_a_rank_start_on_labelled_nodes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[dict[str, float]], object, str]] = []

    def placement_group(
        bundles: list[dict[str, float]], *, bundle_label_selector: object, strategy: str, **named: str
    ) -> None:
        asked.append((bundles, bundle_label_selector, strategy))

    monkeypatch.setattr(placement, "placement_group", placement_group)
    launched = Launched()
    worker_handle.create(0, config, launched)  # type: ignore[arg-type]  # a launch without Ray
    LearnerGroup(config, launched)  # type: ignore[arg-type]
    assert asked == [([{"CPU": 1.0, "GPU": 1.0}], [SPOT], "SPREAD"), ([{"CPU": 1.0}], [STEADY], "STRICT_PACK")]


def test_a_rank_without_resources_keeps_its_labels(config: Config) -> None:
    launched = Launched()
    learner = config.learner.model_copy(update={"cpus": 0.0})
    LearnerGroup(config.model_copy(update={"learner": learner}), launched)  # type: ignore[arg-type]
    assert launched.options[-1]["label_selector"] == STEADY


def test_a_worker_without_resources_keeps_its_labels(config: Config) -> None:
    launched = Launched()
    rollout = config.rollout.model_copy(update={"cpus": 0.0, "gpus": 0.0})
    worker_handle.create(0, config.model_copy(update={"rollout": rollout}), launched)  # type: ignore[arg-type]
    assert launched.options[0]["label_selector"] == SPOT


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[Mapping[str, object]]]]:
    requests: list[dict[str, list[Mapping[str, object]]]] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda **request: requests.append(request))
    return requests


def test_the_autoscaler_is_told_which_nodes(config: Config, told: list[dict[str, list[Mapping[str, object]]]]) -> None:
    needs = [Need("rollout worker", 2, {"CPU": 1.0, "GPU": 1.0}, SPOT), Need("rank", 1, {"CPU": 1.0}, STEADY)]
    request_capacity(config, [*needs, Need("nothing", 5, {})])
    assert told[0]["bundles"] == [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}]
    assert told[0]["bundle_label_selectors"] == [SPOT, SPOT, STEADY]
    request_capacity(config, ())
    assert told[1] == {"bundles": []}


def test_a_training_asks_for_all_of_its_roles_while_it_lasts(
    config: Config, told: list[dict[str, list[Mapping[str, object]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Membership, "balance", lambda self: None)  # asks Ray for the workers
    fleet = Fleet(config)
    with fleet.beside(training_needs(config)):
        fleet.start(Path("model"), 0)
        fleet.resize(3)
    fleet.close()
    worker, rank, reward = {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}, {"CPU": 0.5}
    assert [request["bundles"] for request in told] == [
        [worker, worker, rank, reward],
        [worker, worker, worker, rank, reward],
        [worker, worker, worker],
        [],
    ]


@pytest.mark.parametrize(
    ("stage", "bundles"),
    [
        ("aescot", [{"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}]),
        ("coldstart", [{"CPU": 1.0}, {"CPU": 1.0}]),
        ("serve", [{"CPU": 2.0, "GPU": 2.0}]),
    ],
)
def test_a_stage_without_a_fleet_asks_for_its_roles(
    stage: str, bundles: object, told: list[dict[str, list[Mapping[str, object]]]]
) -> None:
    settings = ["ray.address=auto", "aescot.teacher.actors=2", "aescot.teacher.cpus=2", "aescot.judge.gpus=1"]
    settings += ["serve.cpus=2", "serve.gpus=1", "rollout.engine.tensor_parallel_size=2", "serve.demo_images=1"]
    with requested_capacity(load_config(overrides=settings), stage):
        assert told[0]["bundles"] == bundles
    assert told[1:] == [{"bundles": []}]
