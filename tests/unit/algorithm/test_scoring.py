"""Scoring: parsing, rewards and metrics of groups together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import group

from rapo.algorithm.answer_path import path_nodes
from rapo.algorithm.scoring import score_groups
from rapo.answers.parse import format_completion
from rapo.answers.readout import SYMBOLS
from rapo.config import RewardSettings
from rapo.records import AnswerNodes


def answers(*scores: float | str) -> list[str]:
    return [s if isinstance(s, str) else format_completion("a", s) for s in scores]


GROUPS = [
    group("x", texts=answers(0.8, 0.5, "no tags", 0.1), lengths=(4, 4, 4, 4), target=0.8),
    group(
        "y",
        texts=answers(0.2, 0.9, 0.3, 0.25),
        lengths=(2, 6, 6, 2),
        finish=("stop", "stop", "length", "stop"),
        target=0.2,
    ),
]


def test_soft_ties_without_spreads_are_decided_by_the_labels():
    """A batch of a data set without spreads, in a mix with others that have them."""
    soft, half = (score_groups(GROUPS, RewardSettings(ties=ties))[0] for ties in ("soft", "half"))
    for one, other in zip(soft, half, strict=True):
        np.testing.assert_allclose(one.rewards, other.rewards)


def test_scores_are_parsed_and_invalid_completions_are_left_out():
    scored, metrics = score_groups(GROUPS, RewardSettings())
    assert [s.group for s in scored] == GROUPS
    np.testing.assert_allclose(scored[0].scores, [0.8, 0.5, np.nan, 0.1])
    np.testing.assert_allclose(scored[1].scores, [0.2, 0.9, np.nan, 0.25])
    for one in scored:
        assert one.rewards[2] == 0.0
        assert int(np.argmin(one.advantages)) == 2, "an answer that cannot be read must lose against those that can"
        assert int(np.argmax(one.advantages)) == 0, "the answer nearest to the label gains most"
        assert abs(one.advantages.mean()) < 1e-9
    assert metrics["invalid/no_think"] == metrics["invalid/truncated"] == pytest.approx(1 / 8)
    assert metrics["parse_rate"] == pytest.approx(6 / 8)
    assert metrics["completion_tokens"] == pytest.approx(32 / 8)
    assert not any(key == "invalid/None" for key in metrics)


def test_all_groups_are_scored_together():
    """The relative term compares with the other images, so that without them the rewards differ."""
    together, _ = score_groups(GROUPS, RewardSettings())
    alone, metrics = score_groups(GROUPS[:1], RewardSettings())
    assert metrics["no_opponent"] > 0
    assert not np.allclose(together[0].rewards, alone[0].rewards)


def test_label_spread_reaches_the_reward():
    settings = RewardSettings(ties="soft")
    texts = answers(0.5, 0.6)
    narrow, wide = (
        score_groups([group(u, texts=texts, target=t, target_std=std) for u, t in (("x", 0.5), ("y", 0.6))], settings)[
            0
        ]
        for std in (0.01, 0.4)
    )
    assert not np.allclose(narrow[0].rewards, wide[0].rewards)


def test_nothing_valid_gives_zero_everywhere():
    scored, metrics = score_groups([group("x", texts=["?", "?"])], RewardSettings())
    assert np.isnan(scored[0].scores).all()
    assert not scored[0].rewards.any()
    assert not scored[0].advantages.any()
    assert metrics["parse_rate"] == 0.0
    assert metrics["invalid/no_think"] == 1.0


def nodes(text: str, first: dict[int, float]) -> AnswerNodes:
    """An answer below 1, with the probabilities of its first decimal; the second is its own."""
    rows = np.full((4, len(SYMBOLS)), -30.0, np.float32)
    for row, character in enumerate(text):
        rows[row, SYMBOLS.index(character)] = 0.0
    rows[2] = -30.0
    for digit, p in first.items():
        rows[2, digit] = np.log(p)
    assert path_nodes(text)
    return AnswerNodes(3, text, rows)


def test_the_expected_answer_stands_for_the_sampled_one():
    sampled = replace(GROUPS[0], answers=(nodes("0.80", {8: 0.5, 4: 0.5}), nodes("0.50", {5: 1.0}), None, None))
    scored, _ = score_groups([sampled, GROUPS[1]], RewardSettings())
    np.testing.assert_allclose(scored[0].scores, [0.6, 0.5, np.nan, 0.1], atol=1e-6)
    plain, _ = score_groups([sampled, GROUPS[1]], RewardSettings(score="sampled"))
    np.testing.assert_allclose(plain[0].scores, [0.8, 0.5, np.nan, 0.1])


def test_the_variance_within_a_rationale_softens_the_comparison():
    """Means alone would make a win of any small difference."""

    def relative(spread: float) -> float:
        first = {4: spread, 6: spread, 5: 1 - 2 * spread}
        pair = [
            replace(group(u, texts=answers(float(text), float(text)), target=t), answers=(nodes(text, first),) * 2)
            for u, t, text in (("x", 0.9, "0.56"), ("y", 0.1, "0.55"))
        ]
        settings = RewardSettings(weight_absolute=0, weight_format=0)
        return float(score_groups(pair, settings)[0][0].rewards[0])

    assert relative(1e-9) > relative(0.2) > np.sqrt(0.5)


def test_a_grounded_rationale_gains():
    true, false = "superb exposure, balanced", "poor exposure, far off"
    texts = [format_completion(text, 0.5) for text in (true, false)]
    one = replace(group("x", texts=texts), measured=np.array([0.5, 0.5, 0.5, 0.5, 0.95]))
    scored, metrics = score_groups([one], RewardSettings(weight_grounded=1.0))
    assert scored[0].advantages[0] > 0 > scored[0].advantages[1]
    assert metrics["grounded_mean"] == pytest.approx(0.1)
    flat, without = score_groups([one], RewardSettings())
    assert not flat[0].advantages.any()
    assert without["grounded_mean"] == 0.0
    unmeasured, _ = score_groups([group("x", texts=texts)], RewardSettings(weight_grounded=1.0))
    assert not unmeasured[0].advantages.any()
