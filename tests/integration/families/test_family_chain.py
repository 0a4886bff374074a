"""The whole chain with models of other families: cold start, RAPO, export, and scores over gRPC
that equal the evaluation's."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rapo.aescot.writer import phrases
from rapo.models.card import weights_version
from tests.small import rapo, settings
from tests.tiny_families import build_tiny

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl", "llava"])
def test_a_family_runs_the_whole_chain(kind: str, tmp_path: Path) -> None:
    model, out = build_tiny(kind, tmp_path / "model", phrases()), tmp_path / "out"
    done = rapo("run", "--out", str(out), *settings(f"policy.model={model}"))
    assert done.returncode == 0, done.stderr + (out / "driver.log").read_text()[-3000:]
    report = json.loads((out / "report.json").read_text())
    assert all(report["evaluate"][name]["n"] == 24 for name in ("coldstart", "rapo"))
    assert report["evaluate"]["rapo"]["parse_rate"] > 0.3
    assert json.loads((out / "export" / "rapo.json").read_text())["version"] == weights_version(out / "export")
    assert json.loads((out / "export" / "config.json").read_text())["model_type"] == kind
    served = pq.read_table(out / "serve" / "scores.parquet").to_pylist()
    assert len(served) == 6
    assert [row["aesthetic_score"] for row in served] == pytest.approx([row["evaluated"] for row in served], abs=1e-4)
