"""The run's state on disk: whole, verified, bounded in number."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cluster.files.jsonl import read_jsonl
from cluster.remote.waiting import drive
from cluster.training.best_model import BestState
from cluster.training.checkpoint import Checkpoints, TrainingState, cut_back
from cluster.training.staleness import WindowState
from rapo.config import load_config
from rapo.errors import ResourceError, RunFolderError
from rapo.util.file_manifest import entries_of


def save_learner(text):
    def save(folder):
        yield []
        folder.mkdir()
        (folder / "rank0.pt").write_text(text)
        return entries_of(folder, [folder / "rank0.pt"])

    return save


def state(step):
    window = WindowState(next=step, again=[], ready={"3": (step, "d")}, used=step, dropped=0)
    return TrainingState(step, window, [{"step": step, "srcc": 0.5}], BestState(0.5, step), ranks=2)


def latest(checkpoints, notes=None):
    found = checkpoints.latest(pytest.fail if notes is None else notes.append)
    assert found is not None
    return found


def finish(waiting):
    drive(waiting, lambda pending: None)


def write(checkpoints, *steps):
    for step in steps:
        finish(checkpoints.write(state(step), {step: ("group", step)}, save_learner(f"weights of {step}")))


def test_what_is_written_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "state", keep=2)
    assert checkpoints.latest(pytest.fail) is None
    write(checkpoints, 5)
    found = latest(checkpoints)
    assert (found.step, found.groups) == (5, {5: ("group", 5)})
    assert (found.state.window.used, found.state.best.srcc, found.state.ranks) == (5, 0.5, 2)
    assert (found.learner / "rank0.pt").read_text() == "weights of 5"


def test_only_the_last_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 9, 10, 100, 1000)
    assert [kept.step for kept in checkpoints.kept()] == [100, 1000]


def test_what_was_converted_goes_with_the_next_state(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 5)
    folder = checkpoints.converted(latest(checkpoints))
    folder.mkdir()
    assert latest(checkpoints).step == 5, "it is no state of the run"
    write(checkpoints, 10)
    assert {path.name for path in tmp_path.iterdir()} == {"step-000005", "step-000010"}


def tear(folder):
    (folder / "learner" / "rank0.pt").write_text("weights")


def flip(folder):
    data = bytearray((folder / "groups.pkl").read_bytes())
    data[-3] ^= 1
    (folder / "groups.pkl").write_bytes(bytes(data))


def lose(folder):
    (folder / "state.json").unlink()


def of_another_version(folder):
    path = folder / "state.json"
    path.write_text(json.dumps({"step": 20, "window": {}}))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | entries_of(folder, [path])))


def unmanifest(folder):
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (tear, "has 7 bytes"),
        (flip, "does not match its checksum"),
        (lose, "is missing"),
        (unmanifest, "cannot be read"),
        (of_another_version, "written by another version"),
    ],
)
def test_a_damaged_state_is_set_aside_and_the_one_before_it_taken(tmp_path, damage, words):
    checkpoints = Checkpoints(tmp_path, keep=3)
    notes: list[str] = []
    write(checkpoints, 10, 20)
    damage(tmp_path / "step-000020")
    found = latest(checkpoints, notes)
    assert found.step == 10
    assert len(notes) == 1
    assert "step 20" in notes[0]
    assert words in notes[0]
    assert (tmp_path / "step-000020.damaged").is_dir()
    assert latest(checkpoints, notes).step == 10
    assert len(notes) == 1
    write(checkpoints, 20)
    assert latest(checkpoints, notes).step == 20


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 10)

    def full(folder):
        folder.mkdir()
        (folder / "rank0.pt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="disk is full"):
        finish(checkpoints.write(state(20), {}, full))
    assert latest(checkpoints).step == 10
    write(checkpoints, 20)
    assert latest(checkpoints).step == 20
    assert {path.name for path in tmp_path.iterdir()} == {"step-000020"}


def test_rows_of_later_steps_are_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 0.1 * step} for step in (1, 2, 3, 4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    cut_back(path, 2)
    assert read_jsonl(path) == rows[:2]
    cut_back(tmp_path / "absent.jsonl", 2)
    assert not (tmp_path / "absent.jsonl").exists()


@pytest.mark.parametrize(
    ("stage", "ranks", "fits", "convertible"),
    [(2, 2, True, True), (1, 2, False, True), (2, 4, False, True), (None, 2, True, True), (3, 2, False, False)],
)
def test_what_ranks_of_another_number_or_stage_can_take_over(stage, ranks, fits, convertible):
    saved = replace(state(25), ranks=ranks, zero_stage=stage)
    assert saved.fits(load_config()) is fits
    if convertible:
        saved.check_convertible(load_config())
    else:
        with pytest.raises(RunFolderError, match=r"written with learner\.zero_stage = 3.*has 2"):
            saved.check_convertible(load_config())
