"""The file of model versions, and how what is served follows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import safetensors_bytes

from cluster.cli.serving.served_models import ServedModels, read_models, roll_out, watch_models
from rapo.errors import ConfigError, RoleError


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps({"model_type": "qwen2_5_vl", "vision_config": {}}), encoding="utf-8"
        )
        for file in ("tokenizer_config.json", "processor_config.json"):
            (folder / file).write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(safetensors_bytes())
    return tmp_path


def write(folders: Path, default: str, *versions: str) -> Path:
    path = folders / "models.toml"
    lines = [f'default = "{default}"', "[models]", *(f'{version} = "{version}"' for version in versions)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


class Server:
    """Keeps what a `ScorerServer` would serve, and the order of things."""

    def __init__(self, default: str, versions: dict[str, Path], broken: Path | None = None) -> None:
        self.default, self.versions, self.broken = default, versions, broken
        self.did: list[str] = []

    def add(self, model_dir: Path, version: str) -> None:
        self.did.append(f"add {version}")
        if model_dir == self.broken:
            raise RoleError("it did not start")
        self.versions = self.versions | {version: model_dir}

    def set_default(self, version: str) -> None:
        assert version in self.versions
        self.did.append(f"default {version}")
        self.default = version

    def remove(self, version: str) -> None:
        assert version != self.default
        self.did.append(f"remove {version}")
        self.versions = {name: folder for name, folder in self.versions.items() if name != version}


def test_folders_are_relative_to_the_file(folders: Path) -> None:
    models = read_models(write(folders, "two", "one", "two"))
    assert models == ServedModels("two", {"one": folders / "one", "two": folders / "two"})
    path = folders / "marked.toml"
    path.write_text('default = "one"\n[models]\none = "one"', encoding="utf-8-sig")
    assert read_models(path) == ServedModels("one", {"one": folders / "one"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default = 1 =", "not valid TOML"),
        ('default = "one"', r"\[models\]"),
        ('default = "one"\n[models]', r"\[models\]"),
        ('default = "two"\n[models]\none = "one"', "'two' is not among"),
        ('[models]\none = "one"', "None is not among"),
        ('default = "one"\nspeed = 3\n[models]\none = "one"', "unknown key 'speed'"),
        ('default = "one"\n[models]\none = 3', r"\[models\]"),
        ('default = "one"\n[models]\none = "elsewhere"', "'one'.*not found"),
        ('default = "one"\n[models]\none = "a\\u0000b"', "'one'.*null"),
        (f'default = "one"\n[models]\none = "{"x" * 6000}"', "'one'.*too long"),
        ("default = " + 100_000 * "[", "TOML"),
        (f"default = {'9' * 5000}", "TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(folders: Path, text: str, words: str) -> None:
    path = folders / "models.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_models(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        watch_models(tmp_path / "nowhere.toml")


def test_a_broken_change_changes_nothing(folders: Path) -> None:
    watched = watch_models(write(folders, "one", "one"))
    assert not watched.refresh()
    (folders / "models.toml").write_text("default = ", encoding="utf-8")
    assert not watched.refresh()
    assert watched.value.default == "one"
    write(folders, "two", "one", "two")
    assert watched.refresh()
    assert watched.value.default == "two"


def test_a_roll_out_that_fails_in_any_way_takes_the_others_back(folders: Path) -> None:
    class Odd(Server):
        def add(self, model_dir: Path, version: str) -> None:
            super().add(model_dir, version)
            if version == "three":
                raise OSError("the disk is gone")

    server = Odd("one", {"one": folders / "one"})
    with pytest.raises(OSError, match="disk"):
        roll_out(server, read_models(write(folders, "two", "two", "three")))
    assert server.default == "one"
    assert "two" not in server.versions


def test_the_new_one_is_warm_before_the_old_one_goes(folders: Path) -> None:
    server = Server("one", {"one": folders / "one"})
    roll_out(server, read_models(write(folders, "two", "two", "three")))
    assert server.did[:2] in (["add two", "add three"], ["add three", "add two"])
    assert server.did[2:] == ["default two", "remove one"]
    assert server.versions.keys() == {"two", "three"}


def test_what_is_served_already_is_left_alone(folders: Path) -> None:
    server = Server("one", {"one": folders / "one", "two": folders / "two"})
    roll_out(server, read_models(write(folders, "one", "one", "two")))
    assert server.did == []
    roll_out(server, read_models(write(folders, "two", "one", "two")))
    assert server.did == ["default two"]


def test_a_name_with_another_folder_is_served_anew(folders: Path) -> None:
    server = Server("one", {"one": folders / "two"})
    roll_out(server, read_models(write(folders, "one", "one")))
    assert server.did == ["add one"]
    assert server.versions == {"one": folders / "one"}


def test_a_version_that_does_not_start_takes_the_others_back(folders: Path) -> None:
    server = Server("one", {"one": folders / "one"}, broken=folders / "three")
    with pytest.raises(RoleError):
        roll_out(server, read_models(write(folders, "two", "two", "three")))
    assert server.did == ["add two", "add three", "remove two"]
    assert (server.default, server.versions) == ("one", {"one": folders / "one"})


@pytest.mark.parametrize("arguments", [[], ["export", "--models", "models.toml"]])
def test_the_command_takes_a_folder_or_a_file(arguments: list[str]) -> None:
    from typer.testing import CliRunner

    from cluster.cli.main import app

    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    assert "--models FILE" in result.output
