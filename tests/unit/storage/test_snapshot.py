"""FolderSnapshot, against a real S3 server: what is stored is whole, and comes back the same."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from rapo.errors import ResourceError
from rapo.storage import snapshot as module
from rapo.storage.snapshot import LIST, FolderSnapshot, State, read_state
from rapo.storage.store import DamagedError, Store
from tests.s3_server import BUCKET, Line


@pytest.fixture
def store(request: pytest.FixtureRequest, s3: None) -> Store:
    return Store(f"s3://{BUCKET}/{request.node.name}", patience_s=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for name, text in (("a/one", "1" * 1000), ("a/two", "2"), ("log", "first\n"), ("a/again", "2")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != module.MARK)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_a_folder_comes_back_on_another_machine(store: Store, folder: Path, tmp_path: Path) -> None:
    assert FolderSnapshot(folder, store).store()
    other = tmp_path / "elsewhere"
    assert FolderSnapshot(other, store).restore()
    assert contents(other) == contents(folder)
    assert not FolderSnapshot(other, store).restore(), "it is what was stored last"


def test_only_what_changed_is_sent_and_what_went_is_forgotten(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    upload = Store.upload

    def note(self: Store, path: Path, name: str, size: int) -> str:
        sent.append(path.name)
        return upload(self, path, name, size)

    monkeypatch.setattr(Store, "upload", note)
    snapshot = FolderSnapshot(folder, store)
    assert snapshot.store()
    assert len(sent) == 3, "equal content is stored once"
    assert not snapshot.store()
    with (folder / "log").open("a") as log:
        log.write("second\n")
    (folder / "a/one").unlink()
    assert snapshot.store()
    assert sent[3:] == ["log"]
    (folder / "log").write_text("other")
    assert snapshot.store()
    blobs = list(store.files(".rapo/blobs"))
    assert len(blobs) == 3, "of the last two states"
    again = FolderSnapshot(folder, store)
    assert not again.store()
    assert sent[4:] == ["log"], "what another process stored is not sent again"


def test_a_state_is_visible_whole_or_not_at_all(store: Store, folder: Path, tmp_path: Path) -> None:
    snapshot = FolderSnapshot(folder, store)
    snapshot.store()
    before = contents(folder)
    (folder / "a/one").write_text("new")

    def fail() -> None:
        raise ResourceError("the process ends here")

    with pytest.raises(ResourceError, match="ends here"):
        snapshot.store(fail)
    other = tmp_path / "elsewhere"
    FolderSnapshot(other, store).restore()
    assert contents(other) == before


def test_the_state_of_another_machine_replaces_an_older_one_here(store: Store, folder: Path, tmp_path: Path) -> None:
    FolderSnapshot(folder, store).store()
    other = tmp_path / "elsewhere"
    there = FolderSnapshot(other, store)
    there.restore()
    (other / "a/two").write_text("went on")
    (other / "log").unlink()
    there.store()
    assert FolderSnapshot(folder, store).restore()
    assert contents(folder) == contents(other)
    assert not list(tmp_path.glob("run.unstored-*")), "all of it was stored"


@pytest.mark.parametrize("name", ["leftover", "a/one"])
def test_what_was_never_stored_is_kept_beside_the_state_of_another_machine(
    store: Store, folder: Path, tmp_path: Path, name: str
) -> None:
    FolderSnapshot(folder, store).store()
    there = FolderSnapshot(tmp_path / "elsewhere", store)
    there.restore()
    (tmp_path / "elsewhere/a/two").write_text("went on")
    there.store()
    (folder / name).write_text("paid for")
    notes: list[str] = []
    assert FolderSnapshot(folder, store).restore(notes.append)
    assert contents(folder) == contents(tmp_path / "elsewhere")
    (kept,) = tmp_path.glob("run.unstored-*")
    assert (kept / name).read_text() == "paid for"
    assert str(kept) in notes[0]


def test_work_is_kept_where_the_answer_to_the_last_state_was_lost(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FolderSnapshot(folder, store).store()
    (folder / "a/two").write_text("sent")
    write = Store.write

    def lost(self: Store, name: str, content: bytes) -> None:
        write(self, name, content)
        raise ResourceError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lost)
        with pytest.raises(ResourceError, match="no answer"):
            FolderSnapshot(folder, store).store()
    (folder / "later").write_text("paid for")
    assert not FolderSnapshot(folder, store).restore(), "this folder is ahead of what is stored"
    assert (folder / "later").read_text() == "paid for"


@pytest.mark.parametrize("moved", range(5))
def test_a_restore_that_was_cut_off_begins_anew(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    FolderSnapshot(folder, store).store()
    other = tmp_path / "elsewhere"
    replace, done = Path.replace, list[Path]()

    def cut_off(self: Path, target: Path) -> Path:
        if self.parent.name.endswith(".restored"):
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)
        if moved < 4:  # the mark is written; then a, log and the mark are moved
            with pytest.raises(KeyboardInterrupt):
                FolderSnapshot(other, store).restore()
    FolderSnapshot(other, store).restore()
    assert contents(other) == contents(folder)


def test_a_name_that_leads_out_of_the_folder_is_not_fetched(store: Store, folder: Path, tmp_path: Path) -> None:
    FolderSnapshot(folder, store).store()
    state = read_state(store)
    assert state is not None
    for name in ("../evil", "a/../../evil", str(tmp_path / "evil")):
        store.write(".rapo/manifest.json", State("x", {name: state.files["log"]}).content())
        with pytest.raises(DamagedError, match="no name of a file below"):
            FolderSnapshot(tmp_path / "elsewhere", store).restore()
    assert not list(tmp_path.rglob("evil"))


def test_a_folder_that_is_gone_leaves_what_is_stored(store: Store, folder: Path) -> None:
    snapshot = FolderSnapshot(folder, store)
    snapshot.store()
    shutil.rmtree(folder)
    with pytest.raises(ResourceError, match="is empty or gone"):
        snapshot.store()
    assert len((read_state(store) or State("")).files) == 4


def test_damage_is_found(store: Store, folder: Path, tmp_path: Path) -> None:
    FolderSnapshot(folder, store).store()
    state = read_state(store)
    assert state is not None
    store.write(f".rapo/blobs/{state.files['a/one'][1]}", b"1" * 999 + b"2")
    with pytest.raises(DamagedError, match="is damaged"):
        FolderSnapshot(tmp_path / "elsewhere", store).restore()
    assert not (tmp_path / "elsewhere").exists()
    store.write(".rapo/manifest.json", b"{")
    with pytest.raises(ResourceError, match=r"manifest.json is damaged"):
        FolderSnapshot(tmp_path / "elsewhere", store)


def test_a_checkpoint_and_its_log_stay_together_while_both_change(store: Store, folder: Path, tmp_path: Path) -> None:
    """A row is written before its checkpoint: no state may have a checkpoint without its row."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with (folder / "log").open("a") as log:
                log.write(f"{number}\n")
            (folder / "state").mkdir(exist_ok=True)
            (folder / f"state/step-{number}").write_text("x")
            (folder / f"state/step-{number - 2}").unlink(missing_ok=True)
            stop.wait(0.05)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        snapshot = FolderSnapshot(folder, store)
        for turn in range(5):
            snapshot.store()
            other = tmp_path / f"elsewhere-{turn}"
            FolderSnapshot(other, store).restore()
            rows = (other / "log").read_text().split()
            steps = [path.name.removeprefix("step-") for path in (other / "state").iterdir()]
            assert steps
            assert set(steps) <= set(rows)
    finally:
        stop.set()
        worker.join(10)


def test_a_checkpoint_that_is_removed_while_it_is_sent_is_stored_whole(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that takes longer for a checkpoint than the run for the next one."""
    files, upload, lock = 20, Store.upload, threading.Lock()

    def write(step: int) -> None:
        aside = folder / f".step-{step}.partial"
        aside.mkdir()
        for number in range(files):
            (aside / f"rank-{number}").write_text(f"{step} {number}")
        aside.rename(folder / f"step-{step}")

    def slow(self: Store, path: Path, name: str, size: int) -> str:
        with lock:
            (old,) = folder.glob("step-*")
            write(int(old.name.removeprefix("step-")) + 1)
            shutil.rmtree(old)
        return upload(self, path, name, size)

    write(1)
    monkeypatch.setattr(Store, "upload", slow)
    assert FolderSnapshot(folder, store).store()
    assert not list(folder.parent.glob("*.sending"))
    assert FolderSnapshot(tmp_path / "other", store).restore()
    (step,) = (tmp_path / "other").glob("step-*")
    assert {path.read_text() for path in step.iterdir()} == {f"{step.name[5:]} {number}" for number in range(files)}


def test_a_published_folder_has_its_own_names_and_a_list(store: Store, folder: Path) -> None:
    snapshot = FolderSnapshot(folder, store)
    snapshot.store()
    snapshot.publish("a")
    assert {one.name for one in store.files("a")} == {"a/one", "a/two", "a/again", f"a/{LIST}"}
    assert store.read("a/two") == b"2"


def test_storing_goes_on_after_faults(line: Line, folder: Path, tmp_path: Path) -> None:
    store = Store(f"s3://{BUCKET}/faulty", patience_s=30)
    (folder / "large").write_bytes(bytes(300_000))
    line.faults = ["503", "break", "slow", "hang", "503", "break"]
    snapshot = FolderSnapshot(folder, store)
    snapshot.store()
    line.cut()
    line.faults = ["503", "break", "slow"]
    FolderSnapshot(tmp_path / "elsewhere", store).restore()
    assert contents(tmp_path / "elsewhere") == contents(folder)
    assert {"503", "break", "slow", "hang"} <= set(line.met)
