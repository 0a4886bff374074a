"""The calibration of a run: from validation predictions to the model's card."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from producers import finished_run

from cluster.files.predictions import read_predictions
from cluster.pipeline.runner import Pipeline
from cluster.pipeline.stages.calibration import VALIDATION, measured_interval, read_calibration
from cluster.terminal.console import Console
from rapo.config import Config
from rapo.errors import DataError
from rapo.models.card import read_card
from rapo.records import Prediction


def predictions(n: int, readout: str = "expected", error: float = 0.0) -> list[Prediction]:
    """Scores that are off by up to 0.1, and one that is missing."""
    missing = Prediction("none", "s", 0.5, None, "", "no_think", readout)
    return [
        *(Prediction(str(i), "s", 0.3 + 0.01 * (i % 21 - 10) + error, 0.3, "", None, readout) for i in range(n)),
        missing,
    ]


def test_the_selected_model_is_calibrated_and_its_card_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = finished_run(tmp_path / "run")
    assert len(read_predictions(folder / "evaluate" / VALIDATION)) == 24
    made = read_calibration(config, folder / "evaluate")
    assert made is not None
    assert (made.readout, made.n, made.coverage) == ("greedy", 24, 0.9)
    evaluated = {name: json.loads((folder / "evaluate" / f"{name}.json").read_text()) for name in ("coldstart", "rapo")}
    assert "interval" not in evaluated["coldstart"]
    found = evaluated["rapo"]["interval"]
    assert (found["n"], found["calibration_n"], found["stated"]) == (40, 24, 0.9)
    assert 0 < found["mean_width"] < 0.4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("cluster.pipeline.stages.export.check_model_folder", lambda model: None)
    monkeypatch.setattr("rapo.policy.processing.PolicyProcessor", lambda model: SimpleNamespace(prompt="a prompt"))
    (folder / "export" / "done.json").unlink()
    with folder.open(config):
        Pipeline(config, folder, Console()).run(("export",))
    assert read_card(folder / "export").interval == made


def test_the_readout_and_the_coverage_are_those_of_the_calibration() -> None:
    found = measured_interval(Config(), predictions(30), predictions(10))
    assert found is not None
    assert (found["readout"], found["calibration_n"], found["n"], found["inside"]) == ("expected", 30, 10, 10)
    config = Config.model_validate({"evaluate": {"interval_coverage": 0.5}})
    narrow = measured_interval(config, predictions(30), predictions(10))
    assert narrow is not None
    assert (narrow["stated"], narrow["mean_width"] < found["mean_width"]) == (0.5, True)
    off = measured_interval(Config(), predictions(30), predictions(21, error=0.25))
    assert off is not None
    assert off["inside"] == 0


def test_too_few_scores_give_no_interval(tmp_path: Path) -> None:
    assert measured_interval(Config(), predictions(18), predictions(40)) is None
    assert measured_interval(Config(), predictions(19), predictions(40)) is not None
    assert measured_interval(Config(), predictions(19), predictions(0)) is None
    assert measured_interval(Config(), [], predictions(40)) is None
    assert read_calibration(Config(), tmp_path) is None  # a run before there were intervals


def test_two_readouts_are_not_mixed() -> None:
    with pytest.raises(DataError, match="greedy"):
        measured_interval(Config(), [*predictions(30), *predictions(30, "greedy")], predictions(40))
