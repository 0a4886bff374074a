"""Errors of the command line."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cli import main as cli
from cluster.cli.score.local import local_scorer
from cluster.cli.serving.ui import check_ui_allowed
from rapo.config import load_config
from rapo.errors import ConfigError, ResourceError


def fail(name: str) -> Callable[[], None]:
    def app() -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return app


def test_a_light_installation_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", fail("ray.serve"))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "full installation (ray.serve is missing)" in capsys.readouterr().err


def test_a_missing_module_of_rapo_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", fail("rapo.nothing"))
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_a_local_model_needs_the_full_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else sys)
    with pytest.raises(ResourceError, match=r"\(vllm missing\)"), local_scorer(tmp_path, None, []):
        pass


def test_the_page_beside_a_locked_scorer_is_refused() -> None:
    check_ui_allowed(load_config())
    with pytest.raises(ConfigError, match="rapo ui"):
        check_ui_allowed(load_config(overrides=["serve.gateway.tokens=tokens.txt"]))
