"""The evaluate stage: each data set by itself, beside published figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from collection_files import aadb, koniq, para

from cluster.files.parquet import write_parquet
from cluster.files.predictions import read_predictions
from cluster.pipeline.stages.aescot import CRITIQUES
from cluster.pipeline.stages.evaluate import Evaluator
from rapo.config import Config, load_config
from rapo.datasets.load import Dataset, load_dataset
from rapo.records import Prediction


class Fleet:
    """Answers in the order of the human scores, or (`off` = 1) against it. Each set has a level of
    its own, so that the order is right within sets only."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    def predictions(self, records: Any) -> list[Prediction]:
        level = {"koniq": 0.0, "para": 0.6, "aadb": 0.3}
        scores = [(abs(self.off - r.score) + level[r.dataset]) / 2 for r in records]
        return [
            Prediction(r.uid, r.dataset, r.score, score, "", readout="expected")
            for r, score in zip(records, scores, strict=True)
        ]


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Config, Dataset]:
    koniq(tmp_path / "koniq")
    para(tmp_path / "para")
    aadb(tmp_path / "aadb")
    sources = ",".join(
        f'{{path="{tmp_path}/{name}",role="{role}"}}'
        for name, role in (("koniq", "auto"), ("para", "test"), ("aadb", "test"))
    )
    config = load_config(None, [f"data.sources=[{sources}]", "evaluate.bootstrap=20"])
    return config, load_dataset(config.data, config.image, 0)


def evaluator(config: Config, dataset: Dataset, fleet: Any, out: Path) -> Evaluator:
    write_parquet(out / CRITIQUES, [])
    return Evaluator(config, fleet, dataset.split("test"), out, out)


def test_each_set_is_measured_by_itself(mixed: tuple[Config, Dataset], tmp_path: Path, monkeypatch: Any) -> None:
    config, dataset = mixed
    monkeypatch.setattr("cluster.pipeline.stages.evaluate.kept_critiques", lambda _: [])
    fleet = Fleet(1.0)
    stage = evaluator(config, dataset, fleet, tmp_path / "out")
    assert stage.evaluate("coldstart")["srcc"] == -1.0
    fleet.off = 0.0
    result = stage.evaluate("rapo")
    assert [result["srcc"], *(result["srcc_interval"] or ())] == pytest.approx([1.0, 1.0, 1.0])
    comparison = stage.compare()
    assert list(comparison["sets"]) == ["koniq", "para", "aadb"]
    assert list(comparison["models"]) == ["cold start", "RAPO"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == comparison
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| RAPO | 1.0000 / 1.0000 | 1.0000 / 1.0000 | 1.0000 / 1.0000 | 1.0000 / 1.0000 |" in table
    assert "| Aes-R1 | - | 0.7842 / 0.7666 | 0.5386 / 0.5423 | - |" in table
    assert "| RAPO - cold start | +2.000" in table


def test_max_images_samples_each_set(mixed: tuple[Config, Dataset], tmp_path: Path, monkeypatch: Any) -> None:
    config, dataset = mixed
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"max_images": 3})})
    monkeypatch.setattr("cluster.pipeline.stages.evaluate.kept_critiques", lambda _: [])
    evaluator(config, dataset, Fleet(), tmp_path / "out").evaluate("rapo")
    rows = read_predictions(tmp_path / "out" / "rapo.parquet")
    assert {name: sum(row.dataset == name for row in rows) for name in ("koniq", "para", "aadb")} == {
        "koniq": 3,
        "para": 3,
        "aadb": 3,
    }
    assert [row.uid for row in rows] != [record.uid for record in list(dataset.split("test"))[:9]]
