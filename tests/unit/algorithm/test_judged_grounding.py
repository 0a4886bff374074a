"""The grounded term of a judge model: which completions it asks about, and what a failure costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from builders import group, png

from actors.messages import RewardReceipt
from actors.reward import RewardScorer
from rapo.algorithm.judged_grounding import judge_groups
from rapo.algorithm.scoring import score_groups
from rapo.answers.parse import format_completion
from rapo.chat.types import Usage
from rapo.config import RewardSettings, load_config
from rapo.explanations.grounding_judge import Explained, GroundingJudge, GroundingVerdict, JudgedBatch, JudgeHistory
from rapo.records import Group
from tests.unit.chat_server import chat_server
from tests.unit.explanations.test_grounding_judge import by_text, vote


class Judge:
    """Finds as many aspects as a rationale has words; knows nothing of rationales with `?`."""

    def __init__(self) -> None:
        self.asked: list[Explained] = []

    def judge(self, explained: Sequence[Explained]) -> JudgedBatch:
        self.asked += explained
        verdicts = [
            GroundingVerdict(None, "no idea", "unusable")
            if "?" in one.rationale
            else GroundingVerdict(tuple(float(place < len(one.rationale.split())) for place in range(5)))
            for one in explained
        ]
        return JudgedBatch(tuple(verdicts), {}, Usage(cost=0.5))


def grouped(uid: str, *rationales: str) -> Group:
    return group(uid, texts=[format_completion(text, 0.5) for text in rationales], lengths=[3] * len(rationales))


def test_a_group_with_one_rationale_without_a_verdict_has_no_term() -> None:
    judge = Judge()
    groups = [grouped("x", "a b", "a", "a b c"), grouped("y", "a", "?", "a b"), grouped("z", "", "a", "a")]
    judged = judge_groups(cast("GroundingJudge", judge), groups, [b"x", b"y", b"z"])
    np.testing.assert_allclose(judged.grounded, [[0.4, 0.2, 0.6], [0.0, 0.0, 0.0], [0.0, 0.2, 0.2]])
    assert judged.unjudged == {"unusable": (1, "no idea")}
    assert judged.metrics == {"unjudged": pytest.approx(1 / 3), "judge_cost": 0.5}
    assert [one.image for one in judge.asked] == [b"x"] * 3 + [b"y"] * 3 + [b"z"] * 3


def test_invalid_completions_are_not_asked_about() -> None:
    judge = Judge()
    cut = group("x", texts=[format_completion("a", 0.5), "<think>a", format_completion("b", 0.5)], lengths=[3] * 3,
                finish=["stop", "stop", "length"])  # fmt: skip
    judged = judge_groups(cast("GroundingJudge", judge), [cut], [b"x"])
    assert [one.rationale for one in judge.asked] == ["a"]
    np.testing.assert_allclose(judged.grounded, [[0.2, 0.0, 0.0]])


def test_the_term_takes_the_place_of_the_measures() -> None:
    settings = RewardSettings(weight_grounded=2.0, weight_absolute=0, weight_relative=0, weight_format=0)
    scored, metrics = score_groups([grouped("x", "a", "b")], settings, np.array([[0.25, 0.75]]))
    np.testing.assert_allclose(scored[0].rewards, [0.5, 1.5])
    assert metrics["grounded_mean"] == 0.5
    assert scored[0].advantages[1] > 0 > scored[0].advantages[0]


def test_the_reward_actor_asks_and_says_what_it_was_told() -> None:
    groups = [grouped("x", "soft light", "a dog"), grouped("y", "soft light", "soft light")]
    images = [np.frombuffer(png(seed=seed), np.uint8) for seed in range(2)]
    with chat_server(by_text(lambda text: vote(*["color"] * ("soft light" in text)))) as server:
        judge = ("kind=openai", "model=m", f"endpoint.base_url={server.base_url}")
        settings = ["rapo.reward.weight_grounded=2", *(f"rapo.reward.grounded_judge.{item}" for item in judge)]
        config = load_config(None, [*settings, "learner.workers=1"])
        receipt, _ = RewardScorer(config, JudgeHistory()).score(False, *groups, *images)
        assert isinstance(receipt, RewardReceipt)
        assert receipt.judged is not None
        again, _ = RewardScorer(config, JudgeHistory(receipt.judged.verdicts)).score(False, *groups, *images)
    assert receipt.metrics["grounded_mean"] == pytest.approx(0.15)
    assert receipt.metrics["unjudged"] == 0.0
    assert (len(receipt.judged.verdicts), receipt.judged.used.prompt_tokens) == (3, 3000)
    assert len(server.bodies) == 3
    assert isinstance(again, RewardReceipt)
    assert again.metrics == receipt.metrics
