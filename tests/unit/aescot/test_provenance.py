"""What a manifest says of teacher and judge."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from rapo.aescot.prompt import BLIND_PROMPT, TEACHER_PROMPT
from rapo.aescot.provenance import Role, RoleFacts, UsedBy, fingerprint, role_facts
from rapo.aescot.rows import JUDGED
from rapo.config import load_config

ENDPOINT = ("kind=openai", "model=gpt", "endpoint.base_url=https://host/v1", "endpoint.key_env=SOME_KEY")


def facts(role: Role, *settings: str, rows: list[dict[str, object]] = []) -> RoleFacts:  # noqa: B006
    used = UsedBy(role)
    for row in rows:
        used.add(pa.Table.from_pylist([row], schema=JUDGED))
    return role_facts(load_config(None, [f"aescot.{role}.{setting}" for setting in settings]), role, used)


def answer(model: str | None, prompt: int | None, completion: int | None, cost: float | None) -> dict[str, object]:
    return {
        "teacher_model": model,
        "teacher_prompt_tokens": prompt,
        "teacher_completion_tokens": completion,
        "teacher_cost": cost,
    }


def test_an_endpoints_model_is_named_with_its_prompt_and_what_it_used() -> None:
    rows = [answer("gpt-2", 10, 5, 0.5), answer("gpt-1", 20, 7, 0.25), answer(None, None, None, None)]
    told = facts("teacher", *ENDPOINT, "revision=2025-04-14", "temperature=0.3", rows=rows)
    assert (told.kind, told.model, told.revision, told.address) == ("openai", "gpt", "2025-04-14", "https://host/v1")
    assert told.prompt_sha256 == hashlib.sha256(TEACHER_PROMPT.encode()).hexdigest()
    assert (told.temperature, told.max_tokens) == (0.3, 320)
    assert told.answered_as == ["gpt-1", "gpt-2"]
    assert (told.prompt_tokens, told.completion_tokens, told.cost) == (30, 12, pytest.approx(0.75))
    assert "SOME_KEY" not in json.dumps(asdict(told))
    blind = facts("teacher", *ENDPOINT, "blind=true")
    assert blind.prompt_sha256 == hashlib.sha256(BLIND_PROMPT.encode()).hexdigest()
    assert blind.settings["blind"] is True


def test_a_judge_model_has_its_votes_and_rules_have_no_model() -> None:
    judge = facts("judge", *ENDPOINT, "votes=3")
    assert (judge.temperature, judge.settings) == (0.0, {"votes": 3, "json_schema": False})
    rules = facts("judge")
    assert (rules.kind, rules.model, rules.prompt_sha256, rules.temperature) == ("rules", None, None, None)


def test_a_folder_and_a_file_of_critiques_are_known_by_their_content(tmp_path: Path) -> None:
    weights, file = tmp_path / "model.safetensors", tmp_path / "c.jsonl"
    digests = set()
    for content in (b"a", b"b"):
        weights.write_bytes(content)
        file.write_bytes(content)
        digests |= {
            facts("teacher", "kind=vllm", f"model={tmp_path}").digest,
            facts("teacher", "kind=given", f"critiques={file}").digest,
        }
    assert len(digests) == 4
    assert facts("teacher").digest is None


def test_the_fingerprint_of_a_role_changes_with_what_decides_its_answers_and_with_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Describe {score}.")

    def of(*settings: str) -> str:
        return fingerprint(load_config(None, settings), "teacher")

    asked = [f"aescot.teacher.{setting}" for setting in (*ENDPOINT, f"prompt_file={file}")]
    known = of(*asked)
    assert of(*asked, "aescot.teacher.endpoint.concurrency=3", "aescot.judge.tolerance=2") == known
    others = {of(*asked, f"aescot.teacher.{setting}") for setting in ("temperature=0.5", "words=9", "model=other")}
    file.write_text("Describe the light {score}.")
    assert len({known, of(*asked), of(*asked, "run.seed=7"), *others}) == 6
