"""Node labels: where a role may run reaches Ray, and its autoscaler."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cluster.learner.group import LearnerGroup
from cluster.remote import placement
from cluster.rollout import worker_handle
from cluster.rollout.ray_autoscaler import request_capacity
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
    asked: list[tuple[list[dict[str, float]], object]] = []

    def placement_group(bundles: list[dict[str, float]], *, bundle_label_selector: object, **named: str) -> None:
        asked.append((bundles, bundle_label_selector))

    monkeypatch.setattr(placement, "placement_group", placement_group)
    launched = Launched()
    worker_handle.create(0, config, launched)  # type: ignore[arg-type]  # a launch without Ray
    LearnerGroup(config, launched)  # type: ignore[arg-type]
    assert asked == [([{"CPU": 1.0, "GPU": 1.0}], [SPOT]), ([{"CPU": 1.0}], [STEADY])]


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


def test_the_autoscaler_is_told_which_nodes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda **request: told.append(request))
    request_capacity(config, 2)
    assert told[0]["bundles"] == [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}]
    assert told[0]["bundle_label_selectors"] == [SPOT, SPOT, STEADY]
    request_capacity(config, None)
    assert told[1] == {"bundles": []}
