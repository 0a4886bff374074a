"""A node of the learner is lost for good: the run goes on with the ranks that have room, and with
all of them once there is room again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.integration.nodes.bare_cluster import ROOT, bare_cluster
from tests.integration.test_resume import begin, rows, steps_of, wait_for
from tests.limits import PATIENCE_S
from tests.small import branch

pytestmark = [pytest.mark.integration, pytest.mark.release]

# Enough for a node to come while one rank works, on a slow machine as well.
STEPS, BATCH = 60, 8


def test_a_run_shrinks_and_grows_with_its_nodes(started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "nodes").mkdir()
    with bare_cluster(tmp_path / "nodes", "on-demand", "spot-1", "spot-2") as bare:
        spot, on_demand = (f'{{"ray.io/market-type" = "{kind}"}}' for kind in ("spot", "on-demand"))
        ranks = (f"learner.labels={spot}", "learner.cpus=5", "learner.min_workers=1", "learner.place_timeout_s=8")
        there = (f"ray.address={bare.address}", f"ray.working_dir={ROOT}", f"rollout.labels={on_demand}")
        length = (f"rapo.steps={STEPS}", f"rapo.evaluate_every={STEPS}", "rapo.checkpoint_every=2")
        out = branch(started, tmp_path / "run", *there, *ranks, *length)
        process = begin(out, *there, *ranks, *length)
        log = out / "test.log"

        def said(words: str) -> bool:
            return words in log.read_text()

        try:
            wait_for(lambda: len(steps_of(out)) > 3, process, out)
            bare.kill("spot-2")
            wait_for(lambda: said("goes on with 1 of 2 learner ranks"), process, out)
            bare.add("spot-3")
            wait_for(lambda: said("goes on with 2 of 2 learner ranks"), process, out)
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait(30)
    assert said("no room for the learner ranks within 8 s")
    assert [row["step"] for row in steps_of(out)] == list(range(1, STEPS + 1))
    used = Counter(ticket for row in rows(out, "ledger.jsonl") for ticket in row["used"])
    assert set(used.values()) == {1}, "every group once"
    assert sorted(used) == list(range(STEPS * BATCH))
