"""The stage aescot with teacher and judge behind an endpoint that fails now and then, through the
command line: a budget ends it, and the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.small import rapo, settings
from tests.unit.chat_server import ChatServer, Reply, chat_server, completion

pytestmark = [pytest.mark.integration, pytest.mark.release]

KEY, ROWS, SHARD = "sk-Very9Secret", 32, 8
CRITIQUE = (
    "The light is soft and shapes the hill, while the colors stay muted. The composition leads to the tree at the side, and "
    "the exposure keeps detail in the sky. As a whole it is a calm and plain photograph."
)
VOTE = '{"aligned": true, "grounded": true, "fault": ""}'
#: A request costs 1,000 prompt and 100 completion tokens.
COST = 0.002


def behave(number: int, body: dict[str, object]) -> Reply:
    if number % 7 == 3:
        return Reply(500, "oops")
    if number % 11 == 5:
        return Reply(429, "{}", {"retry-after": "0.1"})
    return completion(VOTE if "aligned" in json.dumps(body) else CRITIQUE)


def stage(server: ChatServer, out: Path, budget: float) -> tuple[int, str]:
    endpoint = (
        f"base_url={server.base_url}",
        "key_env=RAPO_TEST_KEY",
        "prompt_price=1",
        "completion_price=10",
        f"budget={budget}",
    )
    roles = [f"aescot.{role}.endpoint.{setting}" for role in ("teacher", "judge") for setting in endpoint]
    models = [f"aescot.{role}.{setting}" for role in ("teacher", "judge") for setting in ("kind=openai", "model=m")]
    sizes = (f"aescot.images={ROWS}", f"aescot.shard_rows={SHARD}", f"aescot.batch_size={SHARD}")
    done = rapo("aescot", "--out", str(out), *settings(*models, *roles, *sizes, "rapo.reward.weight_grounded=0"))
    assert KEY not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_budget_ends_the_stage_and_a_larger_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPO_TEST_KEY", KEY)
    out = tmp_path / "out"
    with chat_server(behave) as server:
        code, said = stage(server, out, budget=20.5 * COST)
        assert code == 2, said
        assert "the budget is spent" in said
        assert "endpoint.budget" in said
        first = sum("aligned" not in json.dumps(body) for body in server.bodies)
        code, said = stage(server, out, budget=1.0)
        assert code == 0, said
    manifest = json.loads((out / "aescot" / "manifest.json").read_text())
    assert (manifest["kept"], manifest["rejected"]) == (ROWS, {})
    for role in ("teacher", "judge"):
        facts = manifest["roles"][role]
        assert (facts["kind"], facts["answered_as"]) == ("openai", ["served-1"])
        assert facts["cost"] == pytest.approx(ROWS * COST)
        assert facts["prompt_tokens"] == ROWS * 1000
    rows = pq.read_table(out / "aescot" / "critiques.parquet").to_pylist()
    assert {row["critique"] for row in rows} == {CRITIQUE}
    assert all(row["teacher_cost"] == pytest.approx(COST) for row in rows)
    asked = sum("aligned" not in json.dumps(body) for body in server.bodies)
    failed = asked * 0.35
    assert first <= 21 + failed
    assert asked <= ROWS + 2 * SHARD + failed, "shards that are written are not paid for again"
    texts = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)
