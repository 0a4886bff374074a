"""What is said of teacher and judge before they are asked anything, and what their endpoints say of
themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli.check import describe, problems, warnings
from cluster.cli.run import with_absolute_paths
from rapo.aescot.check import check_endpoints
from rapo.config import Config, load_config
from rapo.datasets.check import DataCheck
from rapo.errors import ConfigError
from tests.unit.chat_server import Reply, chat_server

URL = "http://127.0.0.1:9/v1"


def config(*settings: str, role: str = "teacher", url: str = URL) -> Config:
    endpoint = ("kind=openai", "model=m", f"endpoint.base_url={url}", *settings)
    return load_config(None, ["rapo.reward.weight_grounded=0", *(f"aescot.{role}.{setting}" for setting in endpoint)])


@pytest.mark.parametrize("role", ["teacher", "judge"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("endpoint.key_env=RAPO_NO_SUCH_KEY", "RAPO_NO_SUCH_KEY is not set"),
        ("prompt=Of {scoer}", "unknown placeholder {scoer}"),
    ],
)
def test_what_would_stop_teacher_or_judge_is_named(role: str, setting: str, words: str) -> None:
    (line,) = problems(config(setting, role=role), ["aescot"], DataCheck())
    assert words in line
    assert f"aescot.{role}" in line
    assert problems(config(setting, role=role), ["rapo"], DataCheck()) == [], "the critiques are written already"
    assert problems(config(role=role), ["aescot"], DataCheck()) == []


def judged(*settings: str, section: str = "rapo.reward.grounded_judge", url: str = URL) -> Config:
    judge = ("kind=openai", "model=m", f"endpoint.base_url={url}", *settings)
    free_text = ("aescot.teacher.kind=openai", "aescot.teacher.model=m", f"aescot.teacher.endpoint.base_url={url}")
    return load_config(None, [*free_text, *(f"{section}.{setting}" for setting in judge)])


@pytest.mark.parametrize("section", ["rapo.reward.grounded_judge", "evaluate.grounded_judge"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("endpoint.key_env=RAPO_NO_SUCH_KEY", "RAPO_NO_SUCH_KEY is not set"),
        ("prompt={critique}", "needs the placeholder {aspects}"),
    ],
)
def test_what_would_stop_a_judge_of_rationales_is_named(section: str, setting: str, words: str) -> None:
    (line,) = problems(judged(setting, section=section), ["rapo", "evaluate"], DataCheck())
    assert words in line
    assert section in line
    assert problems(judged(section=section), ["rapo", "evaluate"], DataCheck()) == []
    assert any("by m at" in line for line in describe(judged(section=section), DataCheck()))


def test_a_grounded_term_that_would_be_zero_is_a_warning_until_a_model_judges_it() -> None:
    by_measures = judged("kind=measures")
    (line,) = [line for line in warnings(by_measures, DataCheck()) if "grounded" in line]
    assert "rapo.reward.grounded_judge.kind" in line
    assert not any("grounded" in line for line in warnings(judged(), DataCheck()))


def test_a_judge_without_a_weight_is_a_warning() -> None:
    settings = ("kind=openai", "model=m", f"endpoint.base_url={URL}")
    idle = load_config(
        None, ["rapo.reward.weight_grounded=0", *(f"rapo.reward.grounded_judge.{item}" for item in settings)]
    )
    assert any("is not asked" in line for line in warnings(idle, DataCheck()))
    assert problems(idle, ["rapo"], DataCheck()) == []
    assert check_endpoints(idle) == []


def test_the_endpoint_of_a_judge_of_rationales_is_asked_for_its_models() -> None:
    with chat_server(lambda *_: Reply(body='{"data": [{"id": "other"}]}')) as server:
        (line,) = check_endpoints(judged(url=server.base_url, section="evaluate.grounded_judge"))[-1:]
    assert line.startswith("evaluate.grounded_judge.model = 'm' is not among")


@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_a_model_folder_is_looked_at_where_one_is_needed(kind: str, tmp_path: Path) -> None:
    found = problems(config(f"kind={kind}", f"model={tmp_path}"), ["aescot"], DataCheck())
    assert any(f"{tmp_path} holds no config.json" in line for line in found) == (kind == "vllm")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("language=German",), "are for English"),
        (("prompt=Write about {dimensions}.",), "the teacher is blind"),
        (("endpoint.prompt_price=1",), "no budget"),
        (("endpoint.key_env=A_KEY", "endpoint.base_url=http://host/v1"), "unencrypted to host"),
    ],
)
def test_what_is_probably_not_intended_is_said(settings: tuple[str, ...], words: str) -> None:
    (line,) = warnings(config(*settings), DataCheck())
    assert words in line
    assert warnings(config("endpoint.key_env=A_KEY"), DataCheck()) == []
    assert warnings(config("endpoint.key_env=A_KEY", "endpoint.base_url=https://host/v1"), DataCheck()) == []
    assert warnings(config("blind=true", "prompt=Write about {dimensions}."), DataCheck()) == []


def test_the_description_names_models_addresses_and_budget() -> None:
    prices = ("endpoint.prompt_price=1", "endpoint.completion_price=1", "endpoint.budget=25")
    lines = "\n".join(describe(config(*prices), DataCheck()))
    assert f"critiques by m at {URL} for at most 25, judged by the rules" in lines
    assert "by the rule-based teacher, judged by m at" in "\n".join(describe(config(role="judge"), DataCheck()))


def test_a_run_keeps_the_text_of_its_prompt_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Write about {dimensions}.", encoding="utf-8")
    teacher = with_absolute_paths(config(f"prompt_file={file}", "blind=true")).aescot.teacher
    assert (teacher.prompt, teacher.prompt_file, teacher.model) == ("Write about {dimensions}.", None, "m")
    file.write_text("{critique}? {aspects}", encoding="utf-8")
    evaluate = with_absolute_paths(judged(f"prompt_file={file}", section="evaluate.grounded_judge")).evaluate
    assert (evaluate.grounded_judge.prompt, evaluate.grounded_judge.prompt_file) == ("{critique}? {aspects}", None)
    with pytest.raises(ConfigError, match=r"gone\.txt"):
        with_absolute_paths(config(f"prompt_file={tmp_path / 'gone.txt'}"))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(body='{"data": [{"id": "other"}, {"id": "m", "owned_by": "me"}]}'), None),
        (Reply(body='{"data": [{"id": "other"}]}'), "model = 'm' is not among the models of"),
        (Reply(404, "{}"), None),
        (Reply(401, '{"error": {"message": "bad key sk-Very9Secret"}}'), "key_env"),
        (Reply(500, "oops"), "status 500"),
        (Reply(body="<html>"), "does not answer as an endpoint does"),
    ],
)
def test_an_endpoint_is_asked_for_its_models_only_if_wanted(
    reply: Reply, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAPO_TEST_KEY", "sk-Very9Secret")
    with chat_server(lambda *_: reply) as server:
        asked = config("endpoint.key_env=RAPO_TEST_KEY", url=server.base_url)
        assert problems(asked, ["aescot"], DataCheck()) == []
        assert not server.bodies
        found = check_endpoints(asked)
    assert server.bodies == [{"get": "/v1/models"}]
    assert server.headers[0]["authorization"] == "Bearer sk-Very9Secret"
    assert len(found) == (words is not None)
    assert words is None or (words in found[0] and "aescot.teacher" in found[0])
    assert "Very9Secret" not in str(found)


def test_an_endpoint_that_is_away_is_named() -> None:
    (line,) = check_endpoints(config(url=URL, role="judge"))
    assert line.startswith(f"aescot.judge: {URL} does not answer")
    assert check_endpoints(load_config()) == []
