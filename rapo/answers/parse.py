"""Parsing: turns a completion into a score, or a reason why it is invalid.

- A completion is `<think>rationale</think><answer>score</answer>`: each tag once, and nothing else
  but white space around and between.
- Nothing is guessed: a completion without this form has no score.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Reasons why a completion is invalid, in the order of the checks.
REASONS: tuple[str, ...] = ("truncated", "no_think", "no_answer", "repeated_tag", "extra_text", "not_a_number",
                            "out_of_range")  # fmt: skip

#: The tags of a completion, in their order.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_COMPLETION = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
# ASCII digits only: `float` would also take "1_0", "nan", "1e-1" and other scripts' digits.
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """`score` in [0, 1] and `reason` None, or `score` None and `reason` one of `REASONS`."""

    rationale: str
    score: float | None
    reason: str | None


def parse_answer(text: str, *, truncated: bool = False) -> Answer:
    """Parse one completion. `truncated`: the token limit ended it."""
    if truncated:
        return Answer("", None, "truncated")
    if "<think>" not in text or "</think>" not in text:
        return Answer("", None, "no_think")
    if "<answer>" not in text or "</answer>" not in text:
        return Answer("", None, "no_answer")
    if any(text.count(tag) > 1 for tag in TAGS):
        return Answer("", None, "repeated_tag")
    match = _COMPLETION.fullmatch(text)
    if match is None:
        return Answer("", None, "extra_text")
    rationale, number = match["think"].strip(), match["answer"].strip()
    if not _NUMBER.fullmatch(number):
        return Answer(rationale, None, "not_a_number")
    score = float(number)
    if not 0.0 <= score <= 1.0:
        return Answer(rationale, None, "out_of_range")
    return Answer(rationale, score, None)


def format_completion(rationale: str, score: float) -> str:
    """The training target of a critique and its score, with two decimals as in the paper (Aes-R1,
    arXiv 2509.21871, appendix B)."""
    return f"<think>{rationale}</think><answer>{score:.2f}</answer>"
