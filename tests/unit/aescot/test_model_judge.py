"""The judge model against a real endpoint, alone and behind the rules."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from actors.judge import Judge
from actors.roles import WrittenBatch
from rapo.aescot.model_judge import judge_prompt, judge_template
from rapo.config import Config, JudgeConfig, load_config
from rapo.errors import ConfigError
from tests.unit.aescot.test_teachers import png
from tests.unit.chat.test_endpoint import content_of
from tests.unit.chat_server import ChatServer, Reply, chat_server, completion

GOOD = (
    "The light is soft and shapes the old wall. The colors are muted and calm, and the composition leads to the door. "
    "As a whole it is a modest but pleasing photograph."
)
BLIND, LEAK = GOOD.replace("the old wall", "a sleeping dog"), f"{GOOD} I would rate it 0.40."


def config(server: ChatServer, *settings: str) -> Config:
    judge = ("kind=openai", "model=m", f"endpoint.base_url={server.base_url}", *settings)
    return load_config(None, [f"aescot.judge.{setting}" for setting in judge])


def vote(aligned: bool, grounded: bool, fault: str = "") -> Reply:
    return completion(json.dumps({"aligned": aligned, "grounded": grounded, "fault": fault}))


def by_text(answer: Callable[[str], Reply]) -> Callable[[int, dict[str, object]], Reply]:
    return lambda _, body: answer(content_of(body)[1]["text"])


def batch(*critiques: str) -> WrittenBatch:
    count = len(critiques)
    return {
        "uid": [f"u{i}" for i in range(count)],
        "dataset": ["d"] * count,
        "score": [0.4] * count,
        "image": [png()] * count,
        "critique": list(critiques),
    }


def test_leaks_are_rejected_by_rule_and_only_the_others_cost_a_question() -> None:
    with chat_server(by_text(lambda text: vote(True, "dog" not in text, "no dog" * ("dog" in text)))) as server:
        verdicts = Judge(config(server, "votes=3"))(batch(LEAK, GOOD, BLIND))
    assert verdicts["keep"] == [False, True, False]
    assert verdicts["reason"] == ["leak", None, "factual"]
    assert verdicts["detail"][2] == "3 of 3 votes: no dog"
    assert [used.prompt_tokens for used in verdicts["usage"]] == [0, 3000, 3000]
    assert verdicts["model"] == [None, "served-1", "served-1"]
    assert len(server.bodies) == 6
    assert not any("0.40." in str(body) for body in server.bodies)
    assert all(body["temperature"] == 0 for body in server.bodies)


def test_an_unreadable_answer_is_a_row_with_a_reason() -> None:
    replies = (vote(True, True), completion("I like it."), completion("It fits."))
    with chat_server(lambda number, _: replies[number % 3]) as server:
        verdicts = Judge(config(server, "votes=3", "endpoint.concurrency=1"))(batch(GOOD))
    assert (verdicts["keep"], verdicts["reason"]) == ([False], ["judge"])
    assert "2 of 3 votes cannot be read" in verdicts["detail"][0]


def test_an_endpoint_without_a_budget_left_leaves_rows_unanswered() -> None:
    prices = ("endpoint.prompt_price=1", "endpoint.completion_price=1", "endpoint.budget=0.0001")
    with chat_server(lambda *_: vote(True, True)) as server:
        verdicts = Judge(config(server, *prices))(batch(GOOD, BLIND))
    assert verdicts["reason"] == ["stop"] * 2
    assert not server.bodies


def test_the_questions_change_places_and_the_schema_is_sent_where_it_is_wanted() -> None:
    with chat_server(lambda *_: vote(True, True)) as server:
        Judge(config(server, "votes=2", "json_schema=true", "endpoint.concurrency=1"))(batch(GOOD))
    first, second = (content_of(body)[1]["text"] for body in server.bodies)
    assert first.index('"aligned": does') < first.index('"grounded": is')
    assert second.index('"grounded": is') < second.index('"aligned": does')
    form = json.loads(json.dumps(server.bodies[0]["response_format"]))
    assert form["json_schema"]["schema"]["required"] == ["aligned", "grounded", "fault"]


def test_the_prompt_tells_the_score_and_the_critique() -> None:
    text = judge_prompt(judge_template(JudgeConfig()), 0.43, "Braces {score} stay.", 0)
    assert "0.43" in text
    assert "which makes it fair on" in text
    assert "\n====\nBraces {score} stay.\n====\n" in text
    own = JudgeConfig(prompt="{critique} at {level}? {questions}")
    assert judge_prompt(judge_template(own), 0.99, "X.", 1).startswith('X. at superb? "grounded"')


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("{critique} {questions} {words}", r"\{words\}"), ("{questions}", r"\{critique\}"), ("a", "needs")],
)
def test_a_prompt_that_cannot_ask_is_named(prompt: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        judge_template(JudgeConfig(prompt=prompt))
