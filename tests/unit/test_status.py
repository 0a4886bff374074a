"""`rapo status`: how far a run is, and what the watch said last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.pipeline import Pipeline
from cluster.run_folder import RunFolder
from cluster.status import show_status
from rapo.config import Config
from rapo.errors import RunFolderError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "rapo").mkdir()
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "rapo" / "metrics.jsonl").write_text('{"step": 7, "loss": 0.5, "reward_mean": 2.0}\n{"step": 8, "l')
    return tmp_path


def _found(run: Path, *steps: int) -> None:
    rows = [
        {"step": step, "kind": "no_signal", "text": f"Text {step} \x1b[31m[red]" + " word" * 60, "values": {}}
        for step in steps
    ]
    (run / "rapo" / "findings.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_without_warnings_there_is_only_the_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(run)
    out = capsys.readouterr().out
    assert "7  loss 0.500  reward_mean 2.000" in out
    assert "the last" not in out
    assert out.rstrip().endswith("┘")


def test_the_last_warnings_are_shown_whole_and_harmless(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _found(run, 3, 9, 5, 1)
    show_status(run)
    out = capsys.readouterr().out
    assert "4 warnings, the last 3:" in out
    shown = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in shown] == ["3", "5", "9"]
    assert shown[0].startswith("step 3  no signal: Text 3 [31m[red] word")
    assert all(line.count("word") == 60 for line in shown)
    assert "\x1b" not in out


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no config\.toml"):
        show_status(tmp_path)


def test_the_report_for_machines_lists_the_findings_of_a_finished_stage(run: Path) -> None:
    _found(run, 3)
    folder = RunFolder(run)
    pipeline = Pipeline(Config(), folder, None)  # type: ignore[arg-type]
    assert "findings" not in pipeline._report()
    folder.finish("rapo", 1.0)
    assert [(f["step"], f["kind"]) for f in pipeline._report()["findings"]] == [(3, "no_signal")]
    (run / "rapo" / "findings.jsonl").unlink()
    assert pipeline._report()["findings"] == []
