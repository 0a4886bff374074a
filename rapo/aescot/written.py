"""Written critiques: what a teacher's answer is worth."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rapo.chat.types import NOTHING, ChatAnswer, ChatFault, Usage

# A full stop that belongs to a usual abbreviation, a number or a name ends no sentence.
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)[.!?…]+[\"'”’)\]*_]*(?=\s|$)|[。！？]+[”’」』）]*",
)
_TAG = re.compile(r"</?(?:think|answer)>")
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class WrittenCritique:
    """The `text` of a critique, or None with the `problem` and whose fault it is.

    `model` is the name under which the teacher answered; None for the rule-based one.
    """

    text: str | None
    problem: str | None = None
    fault: ChatFault | None = None
    usage: Usage = NOTHING
    model: str | None = None


def to_last_sentence(text: str) -> str:
    """`text` up to the end of its last full sentence; empty where it holds none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def read_critique(answer: ChatAnswer) -> WrittenCritique:
    """The critique in a teacher's answer, on one line. The reasoning before `</think>` may name the
    score and is left out."""
    if answer.text is None:
        return WrittenCritique(None, answer.problem, answer.fault, answer.usage, answer.model)
    text, problem = _critique_in(answer.text, truncated=answer.truncated, reasoning=answer.reasoning)
    return WrittenCritique(text, problem, None if problem is None else "unusable", answer.usage, answer.model)


def without_reasoning(text: str, *, reasoning: bool) -> str | None:
    """An answer without the reasoning of its model; None where it ended inside of it."""
    _, closed, rest = text.rpartition(_CLOSE)
    return None if not closed and (reasoning or _OPEN in rest) else rest


def _critique_in(text: str, *, truncated: bool, reasoning: bool) -> tuple[str | None, str | None]:
    """The critique, or the problem with it."""
    rest = without_reasoning(text, reasoning=reasoning)
    if rest is None:
        return None, _too_short("inside the teacher's own reasoning", text)
    answer = " ".join(rest.split())
    if tag := _TAG.search(answer):
        return None, f"the critique holds the tag {tag[0]}, which marks the policy's own answer: {_head(answer)}"
    if not answer:
        return None, "the teacher wrote nothing"
    if not truncated:
        return answer, None
    if sentences := to_last_sentence(answer):
        return sentences, None
    return None, _too_short("before its first full sentence was complete", answer)


def _too_short(where: str, text: str) -> str:
    return f"the answer ended {where}; raise aescot.teacher.max_tokens (or engine.max_model_len): {_head(text)}"


def _head(text: str) -> str:
    return repr(text[:60])
