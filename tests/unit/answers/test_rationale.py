"""The rationale of a completion, whether or not it has an answer."""

from __future__ import annotations

import pytest

from rapo.answers.parse import format_completion, parse_answer
from rapo.answers.rationale import rationale_of


@pytest.mark.parametrize(
    "text",
    [
        "<think> soft light </think><answer>0.50</answer>",
        "<think>soft light</think><answer>0.5",
        "<think>soft light</think><answer>",
        "<think>soft light</think> 0.5 of 1",
        "<think>soft light<answer>0.50</answer>",
        "<think>soft light",
        "soft light</think><answer>0.50</answer>",
        "soft light",
        "<think>soft light</think><think>more</think><answer>0.50</answer>",
    ],
)
def test_the_rationale_is_there_whatever_became_of_the_answer(text: str) -> None:
    assert rationale_of(text) == "soft light"


def test_lines_stay_and_nothing_is_made_up() -> None:
    assert rationale_of("<think>\nsoft light.\ndull color.\n</think>") == "soft light.\ndull color."
    assert rationale_of("<think></think><answer>0.50</answer>") == rationale_of("<answer>0.50</answer>") == ""


def test_it_is_the_parsers_where_a_completion_is_valid() -> None:
    text = format_completion("good light; 1 < 2", 0.5)
    assert rationale_of(text) == parse_answer(text).rationale
