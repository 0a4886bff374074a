"""Settings of a teacher's or a judge's endpoint: what is wrong is named, and no secret is
quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapo.config import Config, dump_config, load_config
from rapo.errors import ConfigError

URL = "http://127.0.0.1:8000/v1"
OPENAI = ("kind=openai", "model=m", f"endpoint.base_url={URL}")
SECRET = "sk-Very9Secret"


def load(*settings: str, role: str = "teacher") -> Config:
    return load_config(None, [f"aescot.{role}.{setting}" for setting in settings])


@pytest.mark.parametrize("role", ["teacher", "judge"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("kind=vllm",), "needs model: a model folder"),
        (("kind=openai",), "endpoint.base_url"),
        (("kind=openai", "model=m"), "endpoint.base_url"),
        ((*OPENAI, "actors=2"), "concurrency"),
        ((*OPENAI, "prompt=a", "prompt_file=b"), "exclude each other"),
        ((*OPENAI, "endpoint.budget=1"), "prompt_price and completion_price"),
        ((*OPENAI, "endpoint.budget=1", "endpoint.prompt_price=1"), "prompt_price and completion_price"),
        ((*OPENAI, "endpoint.base_url=127.0.0.1:8000"), "an address such as"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_named(role: str, settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(*settings, role=role)


@pytest.mark.parametrize(
    "setting",
    [
        f"endpoint.key_env={SECRET}",
        "endpoint.key_env=gsk_Very9Secret",
        f"endpoint.base_url=https://user:{SECRET}@host/v1",
        f"endpoint.base_url=https://host/v1?key={SECRET}",
        f"endpoint.api_key={SECRET}",
        f"api_key={SECRET}",
    ],
)
def test_a_key_in_a_setting_is_refused_and_not_quoted(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*OPENAI, setting)
    assert "Very9Secret" not in str(caught.value)
    assert setting.partition("=")[0] in str(caught.value)


def test_an_endpoint_reads_back_as_it_was_written(tmp_path: Path) -> None:
    settings = (
        *OPENAI,
        "endpoint.key_env=TEACHER_KEY",
        'endpoint.extra={reasoning_effort = "low", top_k = 5}',
        'endpoint.omit=["seed"]',
        "endpoint.budget=5",
        "endpoint.prompt_price=2",
        "endpoint.completion_price=8",
        'prompt=Say {dimensions}\n"now"',
    )
    config = load(*settings)
    (tmp_path / "c.toml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "c.toml") == config
