"""The bound on a step against the staleness window itself, in a simulation without Ray."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.scale.window import Times, WindowSimulation
from rapo.plan.cards import CARDS
from rapo.plan.estimate import Estimate
from rapo.plan.model_shape import ModelShape
from rapo.plan.network import Network
from rapo.plan.traffic import Part

_SHAPE = ModelShape(64, 128, 2, 4, 4, 384, False, 64, 128, 2, 14, 2)


@pytest.mark.parametrize(
    ("group", "learner", "delivery", "ahead", "bound"),
    [
        (1.0, 20.0, 3.0, 1, "learner, weights and snapshot"),
        (5.0, 3.0, 1.0, 1, "rollout"),
        (5.0, 3.0, 1.0, 2, "rollout"),
        (4.0, 6.0, 18.0, 1, "a version's round"),
        (2.0, 3.0, 4.0, 0, "a version's round"),
        (1.0, 3.0, 20.0, 1, "delivery"),
        (1.0, 3.0, 20.0, 2, "delivery"),
        (1.0, 10.0, 200.0, 3, "delivery"),
    ],
)
def test_a_step_takes_what_the_plan_says(group, learner, delivery, ahead, bound):
    times = Times(group, learner, delivery, batch=64, places=16, ahead=ahead, steps=200)
    rollout = group * times.batch / times.places
    seconds = {"rollout": rollout, "learner": learner, "weights": 0.0, "delivery": delivery, "snapshot": 0.0}
    parts = [Part(name, value, "") for name, value in seconds.items()]
    found = Estimate(_SHAPE, CARDS["H100-80"], Network(), 1, [], 0, {}, {}, parts, ahead)
    assert found.step_bound == bound
    assert WindowSimulation(times).run().step_seconds == pytest.approx(found.step_seconds, rel=0.05)


def test_groups_that_their_step_has_overtaken_are_dropped():
    """All groups of a step are sampled at once: the slow ones come after it has taken others."""
    plain = Times(10.0, 5.0, 0.1, batch=64, places=64, spread=0.3)
    assert WindowSimulation(plain).run().dropped > 0.03
    for other in (
        replace(plain, spread=0.0),
        replace(plain, group=2.5, places=16),
        replace(plain, learner=25.0),
        replace(plain, ahead=2),
    ):
        assert WindowSimulation(other).run().dropped < 0.02
