"""Grounding: the term of the reward for statements that fit the image, and attempts to fool it."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.aescot.writer import level_of, write_critique
from rapo.algorithm.grounding import grounding
from rapo.answers.prompts import SCORE_PROMPT
from rapo.records import DIMENSIONS

MEASURED = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
TRUE = (
    "poor light, flat; weak mood, soft; fair composition, some tilt; good color, rich; superb exposure, balanced; "
    "overall a fair picture."
)


def test_true_statements_earn_all() -> None:
    assert grounding(TRUE, MEASURED) == pytest.approx(1.0)


def test_it_falls_with_the_distance_and_ends_at_two_levels() -> None:
    one_off = TRUE.replace("poor light, flat", "weak light, faint shadow")
    far_off = TRUE.replace("poor light, flat", "superb light, deep shadow")
    assert grounding(one_off, MEASURED) == pytest.approx(0.9)
    assert grounding(far_off, MEASURED) == pytest.approx(0.8)
    # Between two levels both are half right.
    assert grounding(TRUE, np.array([0.2, *MEASURED[1:]])) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("rationale", "most"),
    [
        ("", 0.0),
        (SCORE_PROMPT, 0.0),
        ("the light is poor and the exposure superb", 0.0),
        ("superb exposure, balanced.", 0.2),
        ("; ".join(["superb exposure, balanced"] * 20), 0.2),
        ("superb light, deep shadow; poor light, flat", 0.0),
    ],
    ids=["nothing", "the prompt", "other words", "one dimension", "repetition", "both ends"],
)
def test_saying_little_repeating_and_contradicting_earn_little(rationale: str, most: float) -> None:
    assert grounding(rationale, MEASURED) <= most


def test_a_level_that_never_changes_earns_less_than_looking() -> None:
    """Over images: "superb exposure" for all of them, as without the term, against the truth."""
    rng = np.random.default_rng(0)
    constant, looking = [], []
    for index in range(200):
        measured = rng.uniform(0, 1, len(DIMENSIONS))
        values = dict(zip(DIMENSIONS, measured.tolist(), strict=True))
        critique = write_critique(str(index), values, float(measured.mean()), rng, 0.0)
        looking.append(grounding(critique.text, measured))
        middle = write_critique(str(index), dict.fromkeys(DIMENSIONS, 0.5), 0.5, rng, 0.0)
        constant.append(grounding(middle.text, measured))
    assert np.mean(looking) > np.mean(constant) + 0.3
    assert level_of(0.5) == 2
