"""Paths of this machine: a URL in the place of one is refused, in every key and every option."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from cluster.cli import main, options
from rapo.config import Config, load_config
from rapo.config.types import Section
from rapo.errors import ConfigError
from rapo.storage.urls import is_url, whole_url


def path_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if Path in kinds:
            yield prefix + name
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from path_keys(kind, f"{prefix}{name}.")


@pytest.mark.parametrize(
    "key",
    [key for key in path_keys() if not key.startswith("data.sources.")],
)
def test_a_url_is_no_path(key: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/key is a URL"):
        load_config(overrides=[f"{key}=s3://bucket/key"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "an empty path"),
        ("x" * 300, "a path cannot be so long"),
        ("a\\u0000b", "NUL"),
        ("loop", "lead in a circle"),
    ],
    ids=["empty", "long", "nul", "loop"],
)
def test_what_no_path_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    """In every key, and in the options of the command line, except that these cannot tell an empty
    one from the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("pool")
    Path("pool").symlink_to("loop")
    for key in (*path_keys(), "policy.model"):
        if not key.startswith("data.sources."):
            with pytest.raises(ConfigError, match=words) as caught:
                load_config(overrides=[f'{key}="{value}"'])
            assert len(str(caught.value)) < 400
    if value in ("loop", "x" * 300):
        for command in (["run", "--out", value], ["check", value], ["data", "inspect", value], ["status", value]):
            result = CliRunner().invoke(main.app, command)
            assert result.exit_code == 2
            assert words.split()[-1] in result.output


def test_a_url_that_cannot_be_opened_is_no_path_of_a_source() -> None:
    with pytest.raises(ConfigError, match="ftp://host/key: ftp:// is not supported"):
        load_config(overrides=['data.sources=[{path = "ftp://host/key"}]'])


def test_every_option_with_a_path_refuses_a_url() -> None:
    """By their annotations: what one of them lacks would make a local folder of that name."""
    checked = 0
    for command in [*main.app.registered_commands, *main.data_app.registered_commands]:
        assert command.callback is not None
        parameters = inspect.signature(command.callback, eval_str=True).parameters
        for name, parameter in parameters.items():
            kind, *marks = get_args(parameter.annotation) or (None,)
            if kind is Path or Path in get_args(kind):
                named = (command.callback.__name__, name) in (("check", "out"), ("status", "out"))
                runs = marks[0] is get_args(options.Out)[1] or named
                wanted = options.stored if runs else options.local
                assert marks[0].callback is wanted, f"{command.callback.__name__} {name}"
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("url", ["https://host/run", "s3://bucket", "s3://key:secret@bucket/run"])
def test_a_run_makes_no_folder_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.app, ["run", "--out", url])
    assert result.exit_code == 2
    assert "secret" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["s3://bucket/key", "gs://b/k", "file:///srv/x"])
def test_a_path_made_of_a_url_is_known_as_one(value: str) -> None:
    assert is_url(Path(value))
    assert whole_url(Path(value)) == value


@pytest.mark.parametrize("value", ["runs/demo", "/srv/a:b/c", "C:/x", "embedded", "a:b"])
def test_a_path_is_no_url(value: str) -> None:
    assert not is_url(value)
