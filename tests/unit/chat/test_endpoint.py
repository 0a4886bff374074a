"""A model behind an endpoint, against a real server that fails in every way that servers do."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

from rapo.chat.endpoint import EndpointModel
from rapo.chat.types import ChatAnswer, Question, Usage
from rapo.config import ChatConfig, ImageConfig, TeacherConfig
from rapo.errors import ConfigError
from tests.unit.chat_server import ChatServer, Reply, chat_server, completion

SECRET = "sk-Very9Secret"
HTML = Reply(502, "<html>bad gateway</html>", {"content-type": "text/html"})

Behaviour = Callable[[int, dict[str, object]], Reply]


def settings(server: ChatServer, **endpoint: object) -> ChatConfig:
    return TeacherConfig.model_validate(
        {
            "kind": "openai",
            "model": "asked-for",
            "max_tokens": 100,
            "endpoint": {"base_url": server.base_url, "key_env": "RAPO_TEST_KEY", **endpoint},
        }
    )


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPO_TEST_KEY", SECRET)
    monkeypatch.setattr("rapo.chat.failures._FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("rapo.chat.failures._LONGEST_PAUSE_S", 0.1)


@contextmanager
def model_of(behave: Behaviour, **endpoint: object) -> Iterator[tuple[EndpointModel, ChatServer]]:
    with chat_server(behave) as server:
        model = EndpointModel(settings(server, **endpoint), ImageConfig(), patience_s=30.0)
        try:
            yield model, server
        finally:
            model.close()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 30), (255, 0, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def content_of(body: dict[str, object]) -> list[dict[str, Any]]:
    messages: Any = body["messages"]
    (message,) = messages
    return message["content"]


def error_body(message: str) -> str:
    return json.dumps({"error": {"message": message}})


def questions(count: int = 1) -> list[Question]:
    return [Question(f"What of {i}?", png(), 2**40 + i) for i in range(count)]


def in_turn(*replies: Reply) -> Behaviour:
    """These replies, one after the other; the last one from then on."""
    return lambda number, _: replies[min(number, len(replies) - 1)]


def test_a_question_is_sent_as_the_protocol_wants_it() -> None:
    with model_of(in_turn(completion()), extra={"top_k": 3}, omit=["temperature"]) as (model, server):
        (answer,) = model.ask(questions())
    assert answer == ChatAnswer("Soft light.", usage=Usage(1000, 100), model="served-1")
    (body,) = server.bodies
    image, text = content_of(body)
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert text == {"type": "text", "text": "What of 0?"}
    assert (body["model"], body["max_completion_tokens"], body["top_k"]) == ("asked-for", 100, 3)
    assert "temperature" not in body
    assert isinstance(body["seed"], int)
    assert 0 <= body["seed"] < 2**31
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"


def test_answers_come_in_order_and_no_more_are_in_flight_than_allowed() -> None:
    def slow(_: int, body: dict[str, object]) -> Reply:
        text = content_of(body)[1]["text"]
        time.sleep(0.05 if "1" in text else 0.01)
        return completion(f"To {text}")

    with model_of(slow, concurrency=3) as (model, server):
        asked = questions(20)
        answers = model.ask(asked)
    assert [answer.text for answer in answers] == [f"To {question.text}" for question in asked]
    assert 2 <= server.most_at_once <= 3


FAILURES = {
    "429 with Retry-After": Reply(429, '{"error": {"message": "slow down"}}', {"retry-after": "0.3"}),
    "500": Reply(500, "oops"),
    "502 in HTML": HTML,
    "garbage": Reply(200, "<html>login</html>", {"content-type": "text/html"}),
    "garbage in JSON": Reply(200, '{"choices": [}'),
    "an error with status 200": Reply(200, '{"error": {"message": "upstream is away"}}'),
    "no choices": Reply(200, '{"choices": []}'),
    "half an answer": Reply(200, completion().body, cut=30),
    "no answer": Reply(200, completion().body, {"content-length": "0"}, cut=0),
    "silence": Reply(200, completion().body, silent_s=20),
    "a trickle": Reply(200, completion().body, trickle_s=0.05),
}


def limit_of(failure: Reply) -> float:
    """Seconds for a request: few where it will not be answered, else enough on a busy machine."""
    return 1.0 if failure.silent_s or failure.trickle_s else 20.0


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failed_request_is_tried_again(failure: Reply) -> None:
    with model_of(in_turn(failure, completion()), request_timeout_s=limit_of(failure)) as (model, server):
        (answer,) = model.ask(questions())
    assert answer.text == "Soft light."
    assert len(server.bodies) >= 2
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_question_that_always_fails_is_an_answer_with_a_reason(failure: Reply) -> None:
    with model_of(in_turn(failure), request_timeout_s=limit_of(failure), retries=1) as (model, server):
        (answer,) = model.ask(questions())
    assert (answer.text, answer.fault) == (None, "unanswered")
    assert "given up by endpoint.retries = 1 after 2 tries" in (answer.problem or "")
    assert len(server.bodies) == 2 or limit_of(failure) < 20


def test_retry_after_is_honoured_by_every_request() -> None:
    busy = Reply(429, "{}", {"retry-after": "2"})
    with model_of(lambda number, _: busy if number == 0 else completion(), concurrency=4) as (model, server):
        first = threading.Thread(target=model.ask, args=(questions(),))
        first.start()
        time.sleep(1)  # the model knows by now that the server is busy
        answers = model.ask(questions(3))
        first.join(20)
    assert all(answer.text for answer in answers)
    assert len(server.times) == 5
    assert min(server.times[1:]) - server.times[0] >= 1.95


def test_the_time_of_one_question_is_limited_whatever_the_retries() -> None:
    began = time.monotonic()
    with model_of(in_turn(Reply(500)), retries=1000, item_timeout_s=0.5) as (model, _):
        (answer,) = model.ask(questions())
    assert "endpoint.item_timeout_s" in (answer.problem or "")
    assert time.monotonic() - began < 20


def test_a_connection_that_is_refused_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with model_of(in_turn(completion()), base_url=url, retries=1) as (model, _):
            (answer,) = model.ask(questions())
    assert "the connection failed" in (answer.problem or "")
    assert answer.usage == Usage()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, error_body(f"Incorrect API key: {SECRET}")), "key_env"),
        (Reply(404, '{"error": {"message": "no such model"}}'), "no such model"),
        (Reply(402, "{}"), "paid"),
        (Reply(429, '{"error": {"message": "no credit", "code": "insufficient_quota"}}'), "no credit"),
        (Reply(429, "{}", {"retry-after": "86400"}), "86400 s"),
    ],
)
def test_what_concerns_every_question_ends_the_asking(reply: Reply, words: str) -> None:
    with model_of(in_turn(reply), concurrency=1) as (model, server):
        answers = model.ask(questions(5)) + model.ask(questions(2))
        assert model.stopped
    assert len(server.bodies) == 1
    assert {answer.fault for answer in answers} == {"stopped"}
    assert all(words in (answer.problem or "") for answer in answers)


def test_too_many_failures_in_a_row_end_the_asking() -> None:
    with model_of(in_turn(Reply(500)), concurrency=1, retries=0, max_failures=3) as (model, server):
        answers = model.ask(questions(9))
    assert len(server.bodies) == 3
    assert "3 images in a row" in (answers[-1].problem or "")
    good_and_bad = lambda number, _: completion() if number % 3 == 2 else Reply(500)  # noqa: E731
    with model_of(good_and_bad, concurrency=1, retries=0, max_failures=3) as (model, server):
        model.ask(questions(9))
        assert model.stopped is None


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(400, '{"error": {"message": "image too large"}}'), "image too large"),
        (completion(None, choices=[{"message": {"refusal": "I cannot."}}]), "refused: I cannot."),
        (completion(None, choices=[{"message": {"content": "x"}, "finish_reason": "content_filter"}]), "filter"),
    ],
)
def test_a_refusal_costs_one_question_and_is_not_tried_again(reply: Reply, words: str) -> None:
    with model_of(in_turn(reply, completion()), concurrency=1) as (model, server):
        refused, answered = model.ask(questions(2))
    assert (refused.text, refused.fault) == (None, "unusable")
    assert words in (refused.problem or "")
    assert answered.text == "Soft light."
    assert len(server.bodies) == 2


def test_an_image_that_cannot_be_read_is_not_asked_about() -> None:
    with model_of(in_turn(completion())) as (model, server):
        bad, good = model.ask([Question("?", b"no image", 0), *questions()])
    assert (bad.text, bad.fault) == (None, "image")
    assert good.text
    assert len(server.bodies) == 1


def test_a_token_limit_is_told() -> None:
    cut = completion(None, choices=[{"message": {"content": "Soft li"}, "finish_reason": "length"}])
    with model_of(in_turn(cut)) as (model, _):
        assert model.ask(questions())[0].truncated


def test_a_budget_ends_the_asking_and_is_not_overrun() -> None:
    # A request costs 1,000 * 1 + 100 * 10 millionths.
    prices = {"prompt_price": 1.0, "completion_price": 10.0, "budget": 0.0105}
    with model_of(in_turn(completion()), concurrency=4, **prices) as (model, server):
        answers = model.ask(questions(12))
        assert (model.used.prompt_tokens, model.used.completion_tokens) == (5000, 500)
        assert model.used.cost == pytest.approx(0.01)
    assert len(server.bodies) == 5
    assert sum(answer.usage.cost for answer in answers) == pytest.approx(0.01)
    left = [answer for answer in answers if answer.text is None]
    assert len(left) == 7
    assert all("the budget is spent" in (answer.problem or "") and answer.fault == "stopped" for answer in left)


def test_what_may_have_been_billed_counts_against_the_budget() -> None:
    prices = {"prompt_price": 1.0, "completion_price": 10.0, "budget": 1.0, "retries": 1}
    with model_of(in_turn(FAILURES["half an answer"], completion()), **prices) as (model, _):
        (answer,) = model.ask(questions())
    assert answer.usage.prompt_tokens > 2000
    assert answer.usage == model.used
    with model_of(in_turn(FAILURES["500"], completion()), **prices) as (model, _):
        used = model.ask(questions())[0].usage
    assert (used.prompt_tokens, used.cost) == (1000, pytest.approx(0.002))


def test_requests_are_paced() -> None:
    with model_of(in_turn(completion()), requests_per_minute=600, concurrency=8) as (model, server):
        model.ask(questions(6))
    assert server.times[-1] - server.times[0] >= 0.25


def test_the_key_is_in_no_text(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    echo = [Reply(status, error_body(SECRET)) for status in (400, 401, 500)]
    said = []
    for reply in [*echo, Reply(200, SECRET)]:
        with model_of(in_turn(reply), retries=1) as (model, server):
            said += [*model.ask(questions()), model.stopped, repr(model), vars(settings(server))]
    assert "***" in str(said)
    assert "Very9Secret" not in str(said) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("value", [None, "  ", "sk-Very9Secret\nx", "sk-Very9Secretü"])
def test_a_key_that_is_missing_or_malformed_is_named_by_its_variable(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("RAPO_TEST_KEY")
    else:
        monkeypatch.setenv("RAPO_TEST_KEY", value)
    with pytest.raises(ConfigError, match="RAPO_TEST_KEY") as caught, model_of(in_turn(completion())):
        pass
    assert "Very9" not in str(caught.value)


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with model_of(in_turn(completion()), key_env=None) as (model, server):
        model.ask(questions())
    assert SECRET not in str(server.headers)


def test_an_image_is_prepared_once_for_the_questions_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[bytes] = []
    original = EndpointModel._data_url

    def counted(model: EndpointModel, image: bytes) -> str:
        prepared.append(image)
        return original(model, image)

    monkeypatch.setattr(EndpointModel, "_data_url", counted)
    with model_of(lambda *_: completion()) as (model, server):
        answers = model.ask([Question(f"{n}?", image, n) for image in (png(), b"torn") for n in range(5)])
    assert sorted(prepared) == sorted([png(), b"torn"])
    assert [answer.fault for answer in answers] == [None] * 5 + ["image"] * 5
    assert len({str(content_of(body)[0]) for body in server.bodies}) == 1


def test_a_call_ends_at_its_limit_and_keeps_the_answers_that_came() -> None:
    def behave(_: int, body: dict[str, object]) -> Reply:
        return Reply(silent_s=20.0) if "slow" in content_of(body)[1]["text"] else completion()

    with chat_server(behave) as server:
        model = EndpointModel(settings(server, prompt_price=1, completion_price=1), ImageConfig(), patience_s=1.0)
        began = time.monotonic()
        answers = model.ask([Question(text, png(), 0) for text in ("fast", "slow", "fast")])
        took = time.monotonic() - began
        assert model.ask([]) == []
        later = model.ask([Question("fast", png(), 0)])
        model.close()
    assert took < 15
    assert [answer.text for answer in answers] == ["Soft light.", None, "Soft light."]
    assert (answers[1].fault, "within 1 s" in (answers[1].problem or "")) == ("unanswered", True)
    assert later[0].text == "Soft light."
    assert model.used.prompt_tokens > 3000, "what was given up may have been billed"
