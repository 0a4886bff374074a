"""The paper's protocol from its configuration: three sets to train on, five to test on, the
table, and the same figures from `rapo evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.paper_protocol import run_paper
from bench.support.scene_collections import write_collections
from cluster.files.parquet import read_parquet
from rapo.evaluation.published import PAPER_SETS
from tests.small import ALONE, rapo

pytestmark = [pytest.mark.integration, pytest.mark.release]

SMALLER = (
    "aescot.images=64",
    "coldstart.steps=60",
    "coldstart.batch_size=32",
    "rapo.steps=3",
    "rapo.images_per_step=8",
    "rapo.evaluate_every=3",
    *ALONE,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    write_collections(folder / "data", 80, 12, critiques=80)
    run_paper(folder, SMALLER)
    return folder


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_three_sets_are_trained_on_and_five_tested(work: Path) -> None:
    found = results(work / "run" / "evaluate")
    assert tuple(found["sets"]) == PAPER_SETS
    assert list(found["models"]) == ["cold start", "RAPO"]
    images = {name: found["sets"][name]["images"] for name in PAPER_SETS}
    assert images.pop("flickr-aes") > 0
    assert images == dict.fromkeys(images, 12)
    table = (work / "run" / "evaluate" / "table.md").read_text()
    assert "| PLCC / SRCC | tad66k | ava | flickr-aes | para | aadb | mean |" in table
    assert "| Aes-R1 | 0.4513 / 0.4248 | 0.6702 / 0.6619 |" in table
    assert "PLCC / SRCC" in (work / "run.log").read_text(), "the summary shows it, too"
    assert "By data set" in (work / "run" / "report.html").read_text()
    summary = json.loads((work / "run" / "data" / "summary.json").read_text())
    assert {name for name, one in summary["sets"].items() if one["counts"]["train"]} == set(PAPER_SETS[:3])


def test_the_command_measures_a_run_as_its_own_stage_did(work: Path) -> None:
    out, run = work / "again", work / "run"
    command = ("evaluate", f"mine={run}", "--set", "run.seed=42", "--out", str(out))
    done = rapo(*command)
    assert done.returncode == 0, done.stderr
    for model, folder in (("coldstart", "mine-cold-start"), ("rapo", "mine")):
        of_stage = {row["uid"]: row["score"] for row in read_parquet(run / "evaluate" / f"{model}.parquet")}
        files = [out / "predictions" / folder / f"{name}.expected.parquet" for name in PAPER_SETS]
        of_command = {row["uid"]: row["score"] for file in files for row in read_parquet(file)}
        assert of_command == pytest.approx(of_stage, abs=1e-5)
    first = results(out)
    assert first["sets"] == {
        name: {**one, "source": first["sets"][name]["source"]}
        for name, one in results(run / "evaluate")["sets"].items()
    }
    again = rapo(*command)
    assert again.returncode == 0, again.stderr
    assert results(out) == first
    assert "mine: started" in again.stderr
