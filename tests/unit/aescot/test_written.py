"""Written critiques: what is left of a teacher's answer, and what is not one."""

from __future__ import annotations

import pytest

from rapo.aescot.written import WrittenCritique, read_critique, to_last_sentence
from rapo.chat.types import ChatAnswer, Usage


def read(text: str, *, truncated: bool, reasoning: bool = False) -> WrittenCritique:
    return read_critique(ChatAnswer(text, truncated=truncated, reasoning=reasoning))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("The light is soft. The colors are ric", "The light is soft."),
        ("Is it calm? It is! And the", "Is it calm? It is!"),
        ('He calls it "a quiet scene." Then', 'He calls it "a quiet scene."'),
        ("It is calm (a little). It has no", "It is calm (a little)."),
        ("One. Two.", "One. Two."),
        ("Soft light, e.g. on the face, and vs. the", ""),
        ("Good. Some details, e.g. the hands", "Good."),
        ("A weight of 0.5 in an image.jpg of", ""),
        ("光线柔和。色彩丰富，但", "光线柔和。"),
        ("no end at all", ""),
        ("", ""),
    ],
)
def test_a_text_is_cut_at_its_last_full_sentence(text: str, sentences: str) -> None:
    assert to_last_sentence(text) == sentences


def test_only_a_truncated_answer_is_cut() -> None:
    text = "The light is soft. A calm mood"
    assert read(text, truncated=False).text == text
    assert read(text, truncated=True).text == "The light is soft."


def test_an_answer_becomes_one_line() -> None:
    assert read("  Soft light.\n\n  A calm\tmood. ", truncated=False).text == "Soft light. A calm mood."


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_answer_is_a_problem(text: str) -> None:
    for truncated in (False, True):
        written = read(text, truncated=truncated)
        assert (written.text, written.problem) == (None, "the teacher wrote nothing")


def test_an_answer_without_a_full_sentence_says_what_to_raise() -> None:
    written = read("soft light and", truncated=True)
    assert written.text is None
    assert written.problem is not None
    assert "aescot.teacher.max_tokens" in written.problem
    assert "soft light and" in written.problem


def test_reasoning_is_left_out_and_never_taken_for_the_critique() -> None:
    assert read("<think>It has 0.62.</think>\nSoft light.", truncated=False).text == "Soft light."
    assert read("It has 0.62.</think> Soft light.", truncated=False, reasoning=True).text == "Soft light."
    assert read("<think>It has 0.62. So", truncated=True).text is None
    cut = read("It has 0.62. So", truncated=True, reasoning=True)
    assert cut.text is None
    assert "reasoning" in (cut.problem or "")
    assert read("<think>Hm.</think>", truncated=False).problem == "the teacher wrote nothing"


def test_tags_of_the_policys_own_answer_are_refused() -> None:
    written = read("Soft light. <answer>0.5</answer>", truncated=False)
    assert written.text is None
    assert "<answer>" in (written.problem or "")


def test_a_bad_answer_is_unusable_and_a_missing_one_keeps_its_fault() -> None:
    used = Usage(10, 5, 0.25)
    assert read_critique(ChatAnswer("", usage=used)).fault == "unusable"
    assert read_critique(ChatAnswer("Soft light.", usage=used, model="m")) == WrittenCritique(
        "Soft light.", usage=used, model="m"
    )
    missing = read_critique(ChatAnswer(None, "the budget is spent", "unanswered", usage=used))
    assert missing == WrittenCritique(None, "the budget is spent", "unanswered", used)
