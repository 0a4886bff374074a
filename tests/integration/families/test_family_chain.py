"""The whole chain with models of other families: cold start, RAPO, export, and scores over gRPC
that equal the evaluation's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rapo.aescot.writer import phrases
from rapo.models.card import weights_version
from tests.small import ALONE, branch, rapo, settings
from tests.tiny_families import build_tiny, with_num2words

pytestmark = [pytest.mark.integration, pytest.mark.release]


@pytest.fixture(autouse=True)
def _packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = [os.environ.get("PYTHONPATH"), with_num2words(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stages before any model, which the first run makes and the others take over."""
    return tmp_path_factory.mktemp("collected")


@pytest.mark.parametrize(
    "kind", ["llava", "qwen2_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm", "llava_onevision"]
)
def test_a_family_runs_the_whole_chain(kind: str, collected: Path, tmp_path: Path) -> None:
    model = build_tiny(kind, tmp_path / "model", phrases())
    out = branch(collected, tmp_path / "out", *ALONE, f"policy.model={model}")
    done = rapo("run", "--out", str(out), *settings(*ALONE, f"policy.model={model}"))
    assert done.returncode == 0, done.stderr + (out / "driver.log").read_text()[-3000:]
    for stage in ("data", "aescot"):
        shutil.copytree(out / stage, collected / stage, dirs_exist_ok=True)
    rows = [json.loads(line) for line in (out / "rapo" / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("mismatch_kl", 0.0) for row in rows) < 1e-6, "sampler and learner are one policy"
    report = json.loads((out / "report.json").read_text())
    assert all(report["evaluate"][name]["n"] == 24 for name in ("coldstart", "rapo"))
    assert report["evaluate"]["rapo"]["parse_rate"] > 0.3
    assert json.loads((out / "export" / "rapo.json").read_text())["version"] == weights_version(out / "export")
    assert json.loads((out / "export" / "config.json").read_text())["model_type"] == kind
    served = pq.read_table(out / "serve" / "scores.parquet").to_pylist()
    assert len(served) == 6
    assert [row["aesthetic_score"] for row in served] == pytest.approx([row["evaluated"] for row in served], abs=1e-4)
