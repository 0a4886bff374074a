"""The run's state on disk: whole, verified, bounded in number."""

from __future__ import annotations

import json

import pytest

from cluster.files.jsonl import read_jsonl
from cluster.training.checkpoint import Checkpoints, cut_back
from rapo.errors import ResourceError
from rapo.util.file_manifest import entries_of


def save_learner(text):
    def save(folder):
        folder.mkdir()
        (folder / "rank0.pt").write_text(text)
        return entries_of(folder, [folder / "rank0.pt"])

    return save


def write(checkpoints, *steps):
    for step in steps:
        checkpoints.write(step, {"window": {"used": step}}, {step: ("group", step)}, save_learner(f"weights of {step}"))


def test_what_is_written_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "state", keep=2)
    assert checkpoints.latest(print) is None
    write(checkpoints, 5)
    found = checkpoints.latest(print)
    assert (found.step, found.state["window"], found.groups) == (5, {"used": 5}, {5: ("group", 5)})
    assert (found.learner / "rank0.pt").read_text() == "weights of 5"


def test_only_the_last_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 9, 10, 100, 1000)
    assert [state["step"] for state in checkpoints.kept()] == [100, 1000]


def test_what_was_converted_goes_with_the_next_state(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 5)
    folder = checkpoints.converted(checkpoints.latest(print))
    folder.mkdir()
    assert checkpoints.latest(print).step == 5, "it is no state of the run"
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


def unmanifest(folder):
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (tear, "has 7 bytes"),
        (flip, "does not match its checksum"),
        (lose, "is missing"),
        (unmanifest, "cannot be read"),
    ],
)
def test_a_damaged_state_is_set_aside_and_the_one_before_it_taken(tmp_path, damage, words):
    checkpoints, notes = Checkpoints(tmp_path, keep=3), []
    write(checkpoints, 10, 20)
    damage(tmp_path / "step-000020")
    found = checkpoints.latest(notes.append)
    assert found.step == 10
    assert len(notes) == 1
    assert "step 20" in notes[0]
    assert words in notes[0]
    assert (tmp_path / "step-000020.damaged").is_dir()
    assert checkpoints.latest(notes.append).step == 10
    assert len(notes) == 1
    write(checkpoints, 20)
    assert checkpoints.latest(notes.append).step == 20


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 10)

    def full(folder):
        folder.mkdir()
        (folder / "rank0.pt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="disk is full"):
        checkpoints.write(20, {}, {}, full)
    assert checkpoints.latest(print).step == 10
    write(checkpoints, 20)
    assert checkpoints.latest(print).step == 20
    assert {path.name for path in tmp_path.iterdir()} == {"step-000020"}


def test_rows_of_later_steps_are_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 0.1 * step} for step in (1, 2, 3, 4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    cut_back(path, 2)
    assert read_jsonl(path) == rows[:2]
    cut_back(tmp_path / "absent.jsonl", 2)
    assert not (tmp_path / "absent.jsonl").exists()
