"""Evaluate command: the folder of its results."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_files import rated, table

from cluster.evaluation.command import evaluate_models
from rapo.client.sync import ScorerClient
from rapo.config import load_config
from rapo.errors import RunFolderError


def evaluate(folder: Path, out: Path) -> None:
    """Measure a file of predictions in which the label file itself is given."""
    data = table(folder / "t.csv", rated(4, split="test"), images=False)
    evaluate_models([f"p={data}@native"], [str(data)], out, load_config(), None, (), ScorerClient)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(RunFolderError, match="out is a file, not a folder; give another --out"):
        evaluate(tmp_path, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_two_evaluations_do_not_share_a_folder(tmp_path, monkeypatch):
    def nested(*_: object, **__: object) -> None:
        with pytest.raises(RunFolderError, match="another evaluation is working in"):
            evaluate(tmp_path, tmp_path / "out")
        raise KeyError

    monkeypatch.setattr("cluster.evaluation.command.EvaluationRun", nested)
    with pytest.raises(KeyError):
        evaluate(tmp_path, tmp_path / "out")
