"""Levels that free text states."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.aescot.writer import level_of, write_critique
from rapo.explanations.levels import stated_levels
from rapo.records import DIMENSIONS


def test_the_teachers_clauses_have_their_exact_levels() -> None:
    measured = dict(zip(DIMENSIONS, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True))
    text = write_critique("u", measured, 0.5, np.random.default_rng(0), 0.0).text
    assert stated_levels(text) == {name: level_of(value) for name, value in measured.items()}


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("The light is weak and harsh.", {"light and shadow": 1.0}),
        ("superb light, faint shadow; fair color, pale", {"light and shadow": 4.0, "color": 2.0}),
        ("A beautiful, harmonious composition. The colors are dull.", {"composition": 4.0, "color": 0.0}),
        ("The palette is vivid but the hues are harsh.", {"color": 2.0}),
        ("The exposure is not good.", {"exposure": 0.0}),
        ("The exposure is not fair.", {"exposure": 2.0}),
        ("The composition is not effective.", {"composition": 0.0}),
        ("The light comes from the left.", {}),
        ("a superb picture; all blur", {}),
        ("", {}),
    ],
)
def test_free_text_is_read_by_its_words(text: str, levels: dict[str, float]) -> None:
    assert stated_levels(text) == levels


def test_a_dimension_is_read_from_all_its_clauses() -> None:
    text = "The color is vivid. The palette is dull and lifeless."
    # The last sentence counts twice: one positive word against four negative ones.
    assert stated_levels(text)["color"] == pytest.approx(2 * (1 - 3 / 5))
