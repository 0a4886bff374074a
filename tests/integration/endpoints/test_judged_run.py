"""RAPO and evaluation with a judge model of rationales behind an endpoint, by the command line: a
budget ends the run, a larger one goes on, and the result is that of a run that nobody ended."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cluster.files.jsonl import read_jsonl
from rapo.records import DIMENSIONS
from tests.integration.test_resume import model_of, steps_of
from tests.small import ALONE, branch, rapo, settings
from tests.unit.chat_server import ChatServer, Reply, chat_server, completion

pytestmark = [pytest.mark.integration, pytest.mark.release]

KEY = "sk-Very9Secret"
#: A request costs 1,000 prompt and 100 completion tokens.
COST = 0.002


def behave(number: int, body: dict[str, object]) -> Reply:
    """Votes by a digest of the question, so that an equal one gets an equal vote; fails now and
    then; and has nothing to say of some rationales."""
    if number % 9 == 4:
        return Reply(500, "oops")
    digest = hashlib.blake2b(json.dumps(body["messages"]).encode()).digest()
    if digest[5] < 16:
        return completion("I like it.")
    return completion(json.dumps({name: digest[place] % 2 == 0 for place, name in enumerate(DIMENSIONS)}))


def judged(server: ChatServer, budget: float) -> list[str]:
    endpoint = (f"base_url={server.base_url}", "key_env=RAPO_TEST_KEY", "prompt_price=1", "completion_price=10")
    judge = ("kind=openai", "model=m", *(f"endpoint.{item}" for item in (*endpoint, f"budget={budget}")))
    sections = ("rapo.reward.grounded_judge", "evaluate.grounded_judge")
    return [
        *ALONE[1:],
        "rapo.reward.weight_grounded=1",
        *(f"{section}.{item}" for section in sections for item in judge),
    ]


def test_a_budget_ends_the_run_and_a_larger_one_goes_on_as_if_nothing_had_been(
    started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAPO_TEST_KEY", KEY)
    with chat_server(behave) as server:
        whole = branch(started, tmp_path / "whole", *judged(server, 100.0))
        done = rapo("train", "--out", str(whole), *settings(*judged(server, 100.0)))
        assert done.returncode == 0, done.stdout + done.stderr
        asked = len(server.bodies)

        little = 0.4 * asked * COST
        broken = branch(started, tmp_path / "broken", *judged(server, little))
        ended = rapo("train", "--out", str(broken), *settings(*judged(server, little)))
        said = ended.stdout + ended.stderr
        assert ended.returncode == 2, said
        assert "rapo.reward.grounded_judge answers nothing more" in said
        assert "the budget is spent" in said
        for command in ("train", "export"):
            again = rapo(command, "--out", str(broken), *settings(*judged(server, 100.0)))
            assert again.returncode == 0, again.stdout + again.stderr
        in_two = len(server.bodies) - asked
    evaluated = {name: json.loads((broken / "evaluate" / f"{name}.json").read_text()) for name in ("coldstart", "rapo")}
    test_images = 2 * evaluated["rapo"]["n"]
    assert in_two <= 1.2 * (asked + test_images), "what was answered is not asked again"
    for found in (one["explanations"]["judged"] for one in evaluated.values()):
        assert found["n"] + found["unjudged"] == test_images / 2
        assert 0 < found["interval"][0] <= found["mean"] <= found["interval"][1] < 1

    kept = ("step", "loss", "reward_mean", "grounded_mean", "unjudged", "grad_norm")
    rows = [[{key: row[key] for key in kept} for row in steps_of(out)] for out in (whole, broken)]
    assert rows[0] == rows[1]
    assert any(0 < row["grounded_mean"] < 1 for row in rows[0])
    for name, tensor in model_of(whole).items():
        np.testing.assert_array_equal(tensor, model_of(broken)[name], err_msg=name)
    faults = [row for row in read_jsonl(whole / "rapo" / "faults.jsonl") if row["role"] == "grounding judge"]
    assert faults
    assert all("got no verdict: the answer is no vote" in str(row["cause"]) for row in faults)
    lost = [row["unjudged"] for row in rows[0]]
    assert 0 < max(lost) < 1
    spent = sum(row["judge_cost"] for row in steps_of(whole))
    assert spent == pytest.approx(sum(float(str(row["cost"])) for row in read_jsonl(whole / "rapo" / "verdicts.jsonl")))
    assert spent > 0
    texts = [path.read_bytes() for out in (whole, broken) for path in out.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)
