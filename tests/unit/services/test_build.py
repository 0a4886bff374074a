"""The application of an import path: its arguments, and the secret that stays in its file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from rapo.config import Config
from rapo.errors import ConfigError, ModelError, RapoError
from rapo.models.card import Card
from services.app import build
from services.names import read_secret
from services.replica.deployment import build_app

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


def test_the_application_has_the_version_and_the_settings(tiny_model: Path, secret_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "scorer.toml"
    config.write_text("[serve]\nreplicas = 3\nmax_ongoing_requests = 5\n")
    application = build(
        {
            "model": str(tiny_model),
            "version": "v9",
            "secret_file": str(secret_file),
            "config": str(config),
            "set": ["serve.cpus=2", 'serve.labels={"ray.io/market-type" = "on-demand"}'],
        }
    )
    deployment = application._bound_deployment
    given, folder, card, secret = list(deployment.init_args)
    assert (folder, card.version, secret) == (str(tiny_model), "v9", secret_file)
    assert (deployment.num_replicas, given.serve.max_ongoing_requests) == (3, 5)
    options = deployment.ray_actor_options or {}
    assert (options["num_cpus"], options["label_selector"]) == (2, {"ray.io/market-type": "on-demand"})
    assert SECRET.encode() not in pickle.dumps(deployment.init_args), "Ray keeps what it is given"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"secret_file": "/nowhere/secret"}, "/nowhere/secret cannot be read"),
        ({"model": "/nowhere/model"}, "/nowhere/model"),
        ({"version": "a/b"}, "no name for a model version"),
        ({"replicas": 2}, "args of services.app:build: replicas"),
        ({"set": ["serve.nothing=1"]}, r"serve\.nothing"),
    ],
)
def test_wrong_arguments_are_named(
    tiny_model: Path, secret_file: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(RapoError, match=message):
        build({"model": str(tiny_model), "secret_file": str(secret_file), **change})


@pytest.mark.parametrize("text", ["", "short", "two words of the length that is asked for", "ä" * 40])
def test_a_secret_that_could_be_guessed_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weak"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"weak.*(openssl|ASCII)") as caught:
        read_secret(path)
    assert "two words" not in str(caught.value)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        build_app(Config(), tmp_path, Card("v"), "secret")
