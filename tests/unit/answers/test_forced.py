"""Forced answers: what is kept of a rationale that ran off its form."""

from __future__ import annotations

import pytest

from rapo.answers.forced import forced_prefix, has_form, kept_rationale, without_last_clause


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>soft light; good col", "soft light;"),
        ("<think>soft light. Good col", "soft light."),
        ("<think>Shot at f/2.8 with 1.5 s", "Shot at f/2.8 with 1.5 s"),
        ("<think>soft light.</think>", "soft light."),
        ("<think>soft; no full stop</think>", "soft; no full stop"),
        ("<think>soft; a good image.65</answer>", "soft; a good image."),
        ("<think>soft; rich; 0.65", "soft; rich;"),
        ("soft light</think><answer>0.5", "soft light"),
        ("<think></think><think>soft; rich</think>", "soft; rich"),
        ("<think>one.</think>more<answer>", "one."),
        ("<think>", ""),
        ("", ""),
        ("光线柔和。色彩", "光线柔和。"),
    ],
)
def test_the_models_own_text_up_to_where_a_clause_ends(text: str, kept: str) -> None:
    assert kept_rationale(text) == kept
    assert kept in text
    assert has_form(forced_prefix(kept))


def test_clauses_go_one_by_one() -> None:
    assert without_last_clause("soft; rich; level.") == "soft; rich;"
    assert without_last_clause("soft; rich;") == "soft;"
    assert without_last_clause("soft;") == without_last_clause("soft") == ""


@pytest.mark.parametrize("before", ["<answer>", "<think>a<answer>", "<think>a</think>x<answer>", "a</think><answer>"])
def test_other_text_before_an_answer_has_no_form(before: str) -> None:
    assert not has_form(before)
    assert has_form("<think>a</think>\n<answer>")
