"""Parsing: the one valid form of an answer, and a reason for everything else."""

from __future__ import annotations

import pytest

from rapo.answers.parse import REASONS, Answer, format_completion, parse_answer


def completion(answer: str, think: str = "Good light.") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


@pytest.mark.parametrize("hundredths", range(101))
def test_training_targets_parse_to_the_same_score(hundredths):
    answer = parse_answer(format_completion("Soft light; a calm mood.", hundredths / 100))
    assert answer == Answer("Soft light; a calm mood.", hundredths / 100, None)


@pytest.mark.parametrize("number", ["0", "1", "0.5", ".5", "0.123456", "1.000", "00.5", " 0.5\n"])
def test_plain_decimals_are_numbers(number):
    assert parse_answer(completion(number)).score == float(number)


def test_white_space_is_allowed_around_and_between():
    assert parse_answer("\n <think> a \n b </think>\n\n<answer> 0.5 </answer> \n") == Answer("a \n b", 0.5, None)


INVALID = {
    "truncated": [],
    "no_think": ["", "0.5", "<answer>0.5</answer>", "<think>a<answer>0.5</answer>", "a</think><answer>0.5</answer>"],
    "no_answer": ["<think>a</think>", "<think>a</think>0.5", "<think>a</think><answer>0.5"],
    "repeated_tag": [
        completion("0.5") * 2,
        completion("0.5", think="a <think> b"),
        completion("0.5", think="</think> a"),
        completion("0.5") + "<answer>0.6</answer>",
    ],
    "extra_text": [
        "Well: " + completion("0.5"),
        completion("0.5") + " That is all.",
        "<think>a</think> so <answer>0.5</answer>",
        "<answer>0.5</answer><think>a</think>",
        "<think>a<answer></think>0.5</answer>",
    ],
    "not_a_number": ["", "good", "0,5", "1e-1", "nan", "inf", "+0.5", "-0.5", "5.", "0.5/1", "1_0", "٠.٥", "0 .5", "½"],
    "out_of_range": ["1.01", "5", "10", "1" * 400],
}
CASES = [(reason, text) for reason, texts in INVALID.items() for text in texts]


def test_every_reason_has_a_case():
    assert tuple(INVALID) == REASONS


@pytest.mark.parametrize(("reason", "text"), CASES)
def test_everything_else_is_invalid_with_its_reason(reason, text):
    text = completion(text) if reason in ("not_a_number", "out_of_range") else text
    answer = parse_answer(text)
    assert answer.reason == reason
    assert answer.score is None


def test_a_truncated_completion_is_invalid_even_if_it_looks_complete():
    assert parse_answer(completion("0.5"), truncated=True) == Answer("", None, "truncated")


def test_the_rationale_is_kept_with_a_bad_number():
    assert parse_answer(completion("good")).rationale == "Good light."
