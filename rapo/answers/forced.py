"""Forced answers: closes a rationale that ran off its form, so that an answer can be read after it.

- What is kept is the model's own text, never a word more. The answer is then the model's own
  distribution after `<think>kept</think><answer>`, held to numbers.
- A rationale that the model closed itself is kept whole. Any other ends at its last whole clause,
  because that is where the model learned to close one: half a clause is cut off, and so is a score
  that was written without its tags ("a good picture.65").
- The rationale is the text up to the first tag out of place.
"""

from __future__ import annotations

import re

from rapo.answers.parse import TAGS, parse_answer

_TAG = re.compile(f"({'|'.join(map(re.escape, TAGS))})")
# A full stop inside a number or a name ends no clause, one between a word and a number does.
_CLAUSE_END = re.compile(r"[;!?。；！？\n]|\.(?=\s|$)|(?<=[^\W\d])\.(?=\d)")


def has_form(before: str) -> bool:
    """Whether `before`, the text up to and with `<answer>`, is what an answer may follow."""
    return parse_answer(f"{before}0.00</answer>").score is not None


def kept_rationale(text: str) -> str:
    """The rationale in a completion without the form of one. Empty where there is none."""
    pieces = _TAG.split(text)  # text and tags in turn
    for piece, tag in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if rationale := piece.strip():
            return rationale if tag == "</think>" else whole_clauses(rationale) or rationale
    return ""


def whole_clauses(text: str) -> str:
    """`text` up to the end of its last whole clause or sentence; empty where it holds none."""
    ends = [match.end() for match in _CLAUSE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def without_last_clause(rationale: str) -> str:
    """A rationale without its last clause; empty where it has no other."""
    return whole_clauses(rationale[:-1])


def forced_prefix(rationale: str) -> str:
    """The text after which the answer is read."""
    return f"<think>{rationale}</think><answer>"
