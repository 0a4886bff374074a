"""`rapo status`: how far a run is, and what the watch said last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cluster.cli.status import Driver, driver_pid, run_status
from cluster.cli.status_view import show_status, watch_status
from cluster.files.run_folder import RunFolder
from cluster.pipeline.runner import Pipeline
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
    (run / "rapo" / "alerts.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_without_warnings_there_is_only_the_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(run)
    out = capsys.readouterr().out
    assert "7  loss 0.500  reward_mean 2.000" in out
    assert "the last" not in out


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


def test_the_report_for_machines_lists_the_alerts_of_a_finished_stage(run: Path) -> None:
    _found(run, 3)
    folder = RunFolder(run)
    pipeline = Pipeline(Config(), folder, None)  # type: ignore[arg-type]
    assert "alerts" not in pipeline._report()
    folder.finish("rapo", 1.0)
    assert [(f["step"], f["kind"]) for f in pipeline._report()["alerts"]] == [(3, "no_signal")]
    (run / "rapo" / "alerts.jsonl").unlink()
    assert pipeline._report()["alerts"] == []


STATE = {
    "step": 12,
    "steps": 40,
    "version": 12,
    "updated": 1000.0,
    "pid": 1,
    "fleet": {
        "wanted": 3,
        "workers": [
            {"name": "rollout worker 0", "state": "ready", "node": "a", "version": 12, "running": 4, "groups": 90,
             "tokens": 5000, "busy_seconds": 10.0, "since": 900.0},
            {"name": "rollout worker 1", "state": "syncing", "node": "b", "version": 11, "running": 0, "groups": 0,
             "tokens": 0, "busy_seconds": 0.0, "since": 990.0},
        ],
    },
    "window": {"ready": 5, "running": 4, "used": 96, "dropped": 2},
}  # fmt: skip


def _live(run: Path) -> None:
    rows = [
        {"step": step, "loss": 0.1, "reward_mean": 2.5, "staleness_mean": 0.5, "staleness_worst": 1, "dropped": 1,
         "idle_rollout": 0.2, "idle_learner": 0.6, "seconds": {"rollout": 3.0, "learner": 1.0}}
        for step in (11, 12)
    ]  # fmt: skip
    rows.insert(1, {"step": 11, "validation": {"srcc": 0.7125, "plcc": 0.7}, "seconds": {"validation": 2.0}})
    (run / "rapo" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (run / "rapo" / "state.json").write_text(json.dumps(STATE))
    faults = [{"time": 990.0 + i, "step": i, "role": "rollout worker 1", "node": "b", "kind": "death",
               "cause": f"killed {i}\x1b[31m", "action": "replaced"} for i in range(5)]  # fmt: skip
    (run / "rapo" / "faults.jsonl").write_text("\n".join(map(json.dumps, faults)) + '\n{"time": 9')


def test_a_live_run_shows_progress_fleet_and_faults(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _live(run)
    show_status(run)
    out = capsys.readouterr().out
    assert "12 of 40, weight version 12, 1:52 left" in out
    assert "4.0 s a step: rollout 75 %, learner 25 %" in out
    assert "rollout 20 %, learner 60 %" in out
    assert "worst 1" in out
    assert "SRCC 0.713, PLCC 0.700 at step 11" in out or "SRCC 0.712" in out
    assert "1 ready, 1 syncing, 3 wanted" in out
    assert "5 faults, the last 3:" in out
    assert "killed 4[31m; replaced" in out
    assert "killed 1" not in out
    assert "\x1b" not in out


def test_the_facts_for_machines_are_json_of_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _live(run)
    show_status(run, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["rapo"]["step_seconds"] == 4.0
    assert facts["rapo"]["seconds_left"] == 28 * 4.0
    assert [worker["tokens_per_second"] for worker in facts["fleet"]["workers"]] == [500.0, None]
    assert len(facts["faults"]) == 5
    assert run_status(run, now=1010.0).driver == Driver("not running", None, 10.0)


def test_a_damaged_state_is_passed_over(run: Path) -> None:
    (run / "rapo" / "state.json").write_text('{"step": 1')
    assert run_status(run).rapo.step == 7
    (run / "rapo" / "state.json").write_text("[1]")
    assert run_status(run).fleet.workers == []


def test_the_driver_is_who_holds_the_lock(run: Path) -> None:
    assert driver_pid(run) is None
    (run / "config.toml").unlink()
    folder = RunFolder(run / "new")
    with folder.open(Config()):
        assert driver_pid(run / "new") == os.getpid()
        assert run_status(run / "new").driver.state == "running"
        watch_status(run / "new", 0.01, stop=iter([False, True]).__next__)
    assert driver_pid(run / "new") is None
    assert run_status(run / "new").driver.state == "not running"


def test_only_the_end_of_long_metrics_is_read(run: Path) -> None:
    with (run / "rapo" / "metrics.jsonl").open("w") as file:
        for step in range(20000):
            file.write(json.dumps({"step": step, "loss": 0.5, "seconds": {"rollout": 1.0}}) + "\n")
    assert run_status(run).rapo.step == 19999
