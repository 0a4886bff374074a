"""`rapo status`: how far a run is, and its last faults and warnings."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from producers import train

from cluster.cli.status import Driver, driver_pid, run_status
from cluster.cli.status_view import show_status, watch_status
from cluster.files.jsonl import append_jsonl, read_jsonl
from cluster.files.run_folder import RunFolder
from cluster.pipeline.results import RapoResult
from cluster.pipeline.runner import Pipeline
from cluster.remote.faults import FAULTS, Fault
from cluster.terminal.console import Console
from rapo.algorithm.alert_kinds import Alert
from rapo.config import Config, load_config
from rapo.errors import FaultKind, RunFolderError

STEPS = 12


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "rapo").mkdir()
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "rapo" / "metrics.jsonl").write_text('{"step": 7, "loss": 0.5, "reward_mean": 2.0}\n{"step": 8, "l')
    return tmp_path


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A run as it stands after its last step, with five faults behind it."""
    (tmp_path / "config.toml").write_text("")
    settings = (f"rapo.steps={STEPS}", "rapo.images_per_step=4", "rapo.completions=4", "rapo.evaluate_every=5")
    train(load_config(None, settings), tmp_path / "rapo")
    for i in range(5):
        fault = Fault("rollout worker 1", "node-1", FaultKind.DIED, f"killed {i}\x1b[31m", "replaced", time=990.0 + i)
        append_jsonl(tmp_path / "rapo" / FAULTS, {"step": i, **asdict(fault)})
    with (tmp_path / "rapo" / FAULTS).open("a") as file:
        file.write('{"time": 9')
    return tmp_path


def _warned(run: Path, *steps: int) -> None:
    for step in steps:
        alert = Alert(step, "no_signal", f"Text {step} \x1b[31m[red]" + " word" * 60, {})
        append_jsonl(run / "rapo" / "alerts.jsonl", alert.row())


def test_without_warnings_there_is_only_the_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(run)
    out = capsys.readouterr().out
    assert "7  loss 0.500  reward_mean 2.000" in out
    assert "the last" not in out


def test_the_last_warnings_are_shown_whole_and_harmless(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _warned(run, 3, 9, 5, 1)
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


def test_the_report_for_machines_lists_the_alerts_of_a_finished_stage(run: Path) -> None:
    _warned(run, 3)
    folder = RunFolder(run)
    pipeline = Pipeline(Config(), folder, Console())
    assert pipeline.report().alerts is None
    folder.finish("rapo", 1.0, RapoResult("m", 1, 1, [], {}))
    alerts = pipeline.report().alerts
    assert alerts is not None
    assert [(alert["step"], alert["kind"]) for alert in alerts] == [(3, "no_signal")]
    (run / "rapo" / "alerts.jsonl").unlink()
    assert pipeline.report().alerts == []


def test_a_live_run_shows_progress_fleet_and_faults(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(live)
    out = capsys.readouterr().out
    rows: list[dict[str, Any]] = read_jsonl(live / "rapo" / "metrics.jsonl")
    last = [row for row in rows if "validation" in row][-1]
    assert f"{STEPS} of {STEPS}, weight version {STEPS}" in out
    assert " a step: rollout " in out
    assert all(f"{part} " in out for part in ("reward", "learner", "weights"))
    assert "mean 0.00, worst 0.00, 0 groups dropped lately" in out
    assert "0 ready, 0 running, 48 used, 0 dropped" in out
    assert "parse_rate 1.00" in out
    assert f"SRCC {last['validation']['srcc']:.3f}, PLCC {last['validation']['plcc']:.3f} at step {STEPS}" in out
    assert "1 ready, 1 syncing, 3 wanted" in out
    assert "node-0" in out
    assert "5 faults, the last 3:" in out
    assert "killed 4[31m; replaced" in out
    assert "killed 1" not in out
    assert "\x1b" not in out


def test_the_status_for_machines_is_json_of_the_same(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = json.loads((live / "rapo" / "state.json").read_text())
    (live / "rapo" / "state.json").write_text(json.dumps({**state, "steps": STEPS + 28, "updated": 1000.0}))
    rows: list[dict[str, Any]] = read_jsonl(live / "rapo" / "metrics.jsonl")
    rows = [row for row in rows if "loss" in row][-10:]
    show_status(live, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["rapo"]["step_seconds"] == pytest.approx(sum(sum(row["seconds"].values()) for row in rows) / 10)
    assert facts["rapo"]["seconds_left"] == 28 * facts["rapo"]["step_seconds"]
    assert facts["rapo"]["idle"]["learner"] == pytest.approx(sum(row["idle_learner"] for row in rows) / 10)
    busy, loading = facts["fleet"]["workers"]
    assert busy["tokens_per_second"] == pytest.approx(busy["tokens"] / busy["busy_seconds"])
    assert loading["tokens_per_second"] is None
    assert len(facts["faults"]) == 5
    assert facts["alerts"] == []
    assert run_status(live, now=1010.0).driver == Driver("not running", None, 10.0)


def test_a_damaged_state_is_passed_over(run: Path) -> None:
    (run / "rapo" / "state.json").write_text('{"step": 1')
    assert run_status(run).rapo.step == 7
    (run / "rapo" / "state.json").write_text("[1]")
    assert run_status(run).fleet.workers == []
    (run / "rapo" / "state.json").write_text('{"step": "x", "fleet": {"workers": [1]}, "window": [2]}')
    assert run_status(run).rapo.step == 7


def test_the_driver_is_the_process_that_holds_the_lock(run: Path) -> None:
    assert driver_pid(run) is None
    (run / "config.toml").unlink()
    folder = RunFolder(run / "new")
    with folder.open(Config()):
        assert driver_pid(run / "new") == os.getpid()
        assert run_status(run / "new").driver.state == "running"
        watch_status(run / "new", 0.01, stop=iter([False, True]).__next__)
        watch_status(run / "new", 0.01, stop=_ctrl_c)
    assert driver_pid(run / "new") is None
    assert run_status(run / "new").driver.state == "not running"


def _ctrl_c() -> bool:
    raise KeyboardInterrupt


def test_only_the_end_of_long_metrics_is_read(run: Path) -> None:
    with (run / "rapo" / "metrics.jsonl").open("w") as file:
        for step in range(20000):
            file.write(json.dumps({"step": step, "loss": 0.5, "seconds": {"rollout": 1.0}}) + "\n")
    assert run_status(run).rapo.step == 19999
