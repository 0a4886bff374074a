"""Votes of a judge model: what is read as one, and what they decide."""

from __future__ import annotations

import pytest

from rapo.aescot.votes import Vote, count_votes, read_vote
from rapo.chat.types import ChatAnswer

YES, NO_FIT, NO_SIGHT = Vote(True, True), Vote(False, True, "praise"), Vote(True, False, "no dog there")
BAD, GONE = Vote(problem="no JSON", fault="unusable"), Vote(problem="the budget is spent", fault="unanswered")
BOTH = '{"aligned": true, "grounded": false, "fault": "no dog"}'


@pytest.mark.parametrize(
    "text",
    [
        BOTH,
        f"```json\n{BOTH}\n```",
        f"Let me see. {BOTH} That is all.",
        f"<think>It is {{not}} so, {{}}.</think>\n{BOTH}",
        f'{{"note": "a draft"}} {BOTH}',
        '{"fault": "no dog", "grounded": "false", "aligned": "yes", "sure": 0.9}',
        BOTH + '{"aligned": tr',
    ],
)
def test_a_vote_is_found_in_what_models_write_around_it(text: str) -> None:
    assert read_vote(ChatAnswer(text)) == Vote(True, False, "no dog")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ChatAnswer(""), "no such JSON object"),
        (ChatAnswer("It fits the score."), "no such JSON object"),
        (ChatAnswer('{"aligned": true}'), "no such JSON object"),
        (ChatAnswer('{"aligned": null, "grounded": true}'), "no such JSON object"),
        (ChatAnswer('{"aligned": "rather", "grounded": true}'), "no such JSON object"),
        (ChatAnswer("[true, false]"), "no such JSON object"),
        (ChatAnswer(BOTH[:30], truncated=True), "max_tokens"),
        (ChatAnswer(f"<think>So {BOTH}", truncated=True), "own reasoning"),
        (ChatAnswer(f"So {BOTH}", reasoning=True), "own reasoning"),
        (ChatAnswer("{" * 500), "no such JSON object"),
        (ChatAnswer('{"aligned":' + "[" * 100_000), "no such JSON object"),
        (ChatAnswer(None, "status 500", "unanswered"), "status 500"),
    ],
)
def test_what_is_no_vote_is_a_vote_with_a_reason(answer: ChatAnswer, words: str) -> None:
    vote = read_vote(answer)
    assert words in (vote.problem or "")
    assert vote.fault == (answer.fault or "unusable")


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ([YES], None),
        ([NO_FIT], "misaligned"),
        ([NO_SIGHT], "factual"),
        ([YES, YES, NO_FIT], None),
        ([YES, NO_FIT, NO_FIT], "misaligned"),
        ([YES, NO_FIT], "misaligned"),
        ([NO_SIGHT, NO_SIGHT, NO_FIT, YES, YES], None),
        ([NO_SIGHT, NO_SIGHT, NO_FIT, NO_FIT, YES], None),
        ([NO_SIGHT, NO_SIGHT, NO_SIGHT, NO_FIT, YES], "factual"),
        ([YES, YES, BAD], None),
        ([YES, NO_SIGHT, BAD], "factual"),
        ([YES, BAD], "judge"),
        ([YES, BAD, BAD], "judge"),
        ([BAD], "judge"),
        ([GONE, GONE, YES], "unanswered"),
        ([BAD, GONE, YES], "unanswered"),
        ([BAD, GONE, Vote(problem="the budget is spent", fault="stopped")], "stop"),
        ([Vote(problem="torn", fault="image")], "image"),
    ],
)
def test_the_majority_decides_and_doubt_is_against_the_critique(votes: list[Vote], reason: str | None) -> None:
    verdict = count_votes(votes)
    assert (verdict.keep, verdict.reason) == (reason is None, reason)
    assert bool(verdict.detail) == (reason is not None)


def test_the_detail_quotes_a_vote() -> None:
    assert count_votes([NO_SIGHT, NO_SIGHT, YES]).detail == "2 of 3 votes: no dog there"
    assert count_votes([GONE]).detail == "1 of 1 votes cannot be read: the budget is spent"
