"""Votes of a judge model: read from its answers, and counted.

- A vote is a JSON object with two booleans. What else a model writes around it is passed over.
- An answer that holds no such object is a vote with a problem: it counts for neither side.
- A critique is kept where more than half of all votes can be read, and more than half of those are
  for it, in each of the two questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from rapo.aescot.rows import IMAGE, JUDGE, STOP, UNANSWERED
from rapo.aescot.written import without_reasoning
from rapo.chat.json_answer import json_objects
from rapo.chat.types import NOTHING, ChatAnswer, ChatFault, Usage

_LONGEST_FAULT = 300
# The reason of a critique whose votes cannot be read: first what leaves it to be asked again.
_REASONS: dict[ChatFault | None, str] = {
    "stopped": STOP,
    "unanswered": UNANSWERED,
    "image": IMAGE,
    "unusable": JUDGE,
    None: JUDGE,
}


class VoteFile(BaseModel):
    """The JSON object that a judge model answers with."""

    model_config = ConfigDict(extra="ignore")

    aligned: bool
    grounded: bool
    fault: str = ""


#: The JSON schema of a vote, for backends that can constrain an answer to it.
VOTE_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "aligned": {"type": "boolean"},
        "grounded": {"type": "boolean"},
        "fault": {"type": "string", "maxLength": _LONGEST_FAULT},
    },
    "required": ["aligned", "grounded", "fault"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer of a judge model: whether the critique fits the human score and the image. Where
    the answer is no vote, `problem` says why."""

    aligned: bool = False
    grounded: bool = False
    detail: str = ""
    problem: str | None = None
    fault: ChatFault | None = None


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What the votes say: `keep`, or a `reason` for counting and its `detail`. `usage` and `model`
    are of all answers together."""

    keep: bool
    reason: str | None = None
    detail: str = ""
    usage: Usage = NOTHING
    model: str | None = None


def read_vote(answer: ChatAnswer) -> Vote:
    """The vote in an answer."""
    if answer.text is None:
        return Vote(problem=answer.problem, fault=answer.fault)
    text = without_reasoning(answer.text, reasoning=answer.reasoning)
    if text is None:
        return _no_vote("it ended inside the judge's own reasoning; raise aescot.judge.max_tokens", answer.text)
    for found in json_objects(text):
        try:
            vote = VoteFile.model_validate(found)
        except ValidationError:
            continue
        return Vote(vote.aligned, vote.grounded, " ".join(vote.fault.split())[:_LONGEST_FAULT])
    why = (
        "it ended before the JSON object did; raise aescot.judge.max_tokens"
        if answer.truncated
        else "no such JSON object"
    )
    return _no_vote(why, text)


def count_votes(votes: Sequence[Vote], usage: Usage = NOTHING, model: str | None = None) -> ModelVerdict:
    """The verdict of the votes on one critique, of which there is at least one."""
    valid = [vote for vote in votes if vote.problem is None]
    if 2 * len(valid) <= len(votes):
        unread = [vote for vote in votes if vote.problem is not None]
        bad = min(unread, key=lambda vote: list(_REASONS).index(vote.fault))
        reason = _REASONS[bad.fault]
        detail = f"{len(votes) - len(valid)} of {len(votes)} votes cannot be read: {bad.problem}"
        return ModelVerdict(False, reason, detail, usage, model)
    for reason, against in (
        ("misaligned", [vote for vote in valid if not vote.aligned]),
        ("factual", [vote for vote in valid if not vote.grounded]),
    ):
        if 2 * len(against) >= len(valid):
            detail = f"{len(against)} of {len(valid)} votes: {against[0].detail or 'no explanation'}"
            return ModelVerdict(False, reason, detail, usage, model)
    return ModelVerdict(True, None, "", usage, model)


def _no_vote(why: str, text: str) -> Vote:
    return Vote(problem=f"the answer is no vote ({why}): {text[:80]!r}", fault="unusable")
