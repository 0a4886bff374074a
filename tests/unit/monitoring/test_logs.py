"""Structured logs: each line is JSON with its run, and holds neither images nor secrets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cluster.files.jsonl import read_jsonl
from cluster.monitoring.logs import clean, run_id, run_log


def test_a_line_says_run_role_step_and_the_error(tmp_path: Path) -> None:
    path = tmp_path / "rapo" / "log.jsonl"
    with run_log(path, "demo-1"):
        logging.getLogger("rapo.fleet").warning(
            "replaced %s", "it", extra={"role": "rollout worker 3", "step": 41, "image": b"x" * 100, "cause": b"bytes"}
        )
        try:
            raise ValueError("what\nhappened")
        except ValueError:
            logging.getLogger("rapo").exception("failed")
        logging.getLogger("rapo").debug("not this")
    logging.getLogger("rapo").error("after the run")
    rows: list[dict[str, Any]] = read_jsonl(path)
    first, second = rows
    assert first.pop("time") > 1e9
    assert first == {"level": "warning", "logger": "rapo.fleet", "run": "demo-1", "role": "rollout worker 3", "step": 41,
                     "cause": "<bytes>", "message": "replaced it"}  # fmt: skip
    assert "ValueError: what" in second["error"]


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("auth_token=abc123, tokens=25", "auth_token=***, tokens=25"),
        ('{"password": "hunter2"}', '{"password": ***}'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("25 tokens: fine", "25 tokens: fine"),
        ("api-key = k", "api-key = ***"),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out(said: str, written: str) -> None:
    assert clean(said) == written


def test_known_secrets_and_long_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "deadbeefdeadbeef")
    assert clean("GET /deadbeefdeadbeef/x") == "GET /***/x"
    assert clean("a" * 10_000).endswith("... (10000 characters)")


def test_a_runs_name_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    name = run_id(folder)
    assert name.startswith("my_run-")
    assert run_id(folder) == name
