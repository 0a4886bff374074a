"""RunMirror: a run's folder at a URL, one owner at a time, and nothing lost with the machine."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.files import run_mirror as module
from cluster.files.run_mirror import RunMirror, scratch_folder
from rapo.errors import ResourceError, RunFolderError
from rapo.storage.local_copy import local_copy
from rapo.storage.snapshot import read_state
from rapo.storage.store import Store
from tests.s3_server import BUCKET, Line


@pytest.fixture
def url(request: pytest.FixtureRequest, s3: None) -> str:
    return f"s3://{BUCKET}/runs/{request.node.name}"


def mirror(url: str, folder: Path, every_s: float = 60.0) -> RunMirror:
    return RunMirror(url, folder, every_s, lambda text: None)


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str = "another") -> None:
    monkeypatch.setattr(module, "_host", lambda: name)


def until(true: Callable[[], object], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_run_left_is_there_after_the_machine_is_lost(url: str, tmp_path: Path) -> None:
    folder = scratch_folder(url, tmp_path)
    with mirror(url, folder).open():
        (folder / "rapo").mkdir(parents=True)
        (folder / "rapo/metrics.jsonl").write_text("{}\n")
        (folder / ".lock").write_text("")
    shutil.rmtree(tmp_path / "runs")
    with mirror(url, folder).open():
        assert (folder / "rapo/metrics.jsonl").read_text() == "{}\n"
        assert not (folder / ".lock").exists()


def test_changes_are_stored_while_the_run_goes_on(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    folder = tmp_path / "run"
    with mirror(url, folder, 0.1).open():
        folder.mkdir(exist_ok=True)
        (folder / "a").write_text("x")
        until(lambda: b'"a"' in (Store(url).read(".rapo/manifest.json") or b""))


def test_a_run_that_failed_has_its_state_stored(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def run() -> None:
        with mirror(url, folder).open():
            folder.mkdir(exist_ok=True)
            (folder / "driver.log").write_text("why")
            raise ValueError("the run fails")

    with pytest.raises(ValueError, match="the run fails"):
        run()
    assert b"driver.log" in (Store(url).read(".rapo/manifest.json") or b"")
    assert Store(url).read(".rapo/owner.json") is None


def test_a_second_run_is_refused_while_the_first_stirs(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    monkeypatch.setattr(module, "_RENEW_S", 0.2)
    with mirror(url, tmp_path / "run").open():
        with pytest.raises(RunFolderError, match="another run is working"), mirror(url, tmp_path / "run").open():
            pass  # on this machine, by its lock
        with pytest.raises(RunFolderError, match="another run is working"), mirror(url, tmp_path / "scratch").open():
            pass  # on this machine, in another folder, whose lock tells nothing
        elsewhere(monkeypatch)
        with pytest.raises(RunFolderError, match="another run is working"), mirror(url, tmp_path / "other").open():
            pass


def test_the_address_is_kept_while_a_checkpoint_is_fetched_or_stored(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RENEW_S", 0.05)
    renewed: list[str] = []

    def slow(name: str) -> None:
        before = Store(url).read(".rapo/owner.json")
        until(lambda: Store(url).read(".rapo/owner.json") != before)
        renewed.append(name)

    monkeypatch.setattr(module.FolderSnapshot, "restore", lambda self, note: slow("restore"))
    monkeypatch.setattr(module.FolderSnapshot, "store", lambda self, check: slow("store"))
    with mirror(url, tmp_path / "run").open():
        pass
    assert renewed == ["restore", "store"]


def test_an_owner_that_ends_meanwhile_leaves_the_address(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    store, notes = Store(url), list[str]()
    store.write(".rapo/owner.json", b'{"id": "x", "place": "another"}')

    def note(text: str) -> None:
        notes.append(text)
        store.delete(".rapo/owner.json")

    with RunMirror(url, tmp_path / "run", 60.0, note).open():
        assert "another run worked at" in notes[0]
        assert b"another" not in (store.read(".rapo/owner.json") or b"another")


def test_an_owner_that_went_silent_is_succeeded_and_stores_nothing_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_S", 0.3)
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    first = mirror(url, tmp_path / "run")
    with pytest.raises(RunFolderError, match="taken over"), first.open():  # noqa: PT012 - what follows is the story
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/a").write_text("first")
        first.flush()
        elsewhere(monkeypatch)
        with mirror(url, tmp_path / "other").open():
            (tmp_path / "other/a").write_text("second")
        with mirror(url, tmp_path / "third").open():
            (tmp_path / "run/a").write_text("too late")
            with pytest.raises(RunFolderError, match="taken over"):
                first.flush()
            assert (tmp_path / "third/a").read_text() == "second"
    assert Store(url).read(".rapo/owner.json") is None


def test_a_storage_that_is_away_for_a_while_ends_nothing(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    monkeypatch.setattr("rapo.storage.store.PATIENCE_S", 0.3)
    notes: list[str] = []
    url, folder = f"s3://{BUCKET}/runs/away", tmp_path / "run"
    with RunMirror(url, folder, 0.1, notes.append).open():
        folder.mkdir(exist_ok=True)
        line.faults = ["503"] * 10_000
        line.cut()
        (folder / "a").write_text("x")
        until(lambda: any("nothing is stored at the moment" in note for note in notes), 20)
        line.faults.clear()
        until(lambda: b'"a"' in (Store(url).read(".rapo/manifest.json") or b""), 20)
    assert sum("nothing is stored" in note for note in notes) == 1


def test_the_end_of_a_stage_is_an_error_where_nothing_can_be_stored(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapo.storage.store.PATIENCE_S", 0.3)
    folder = tmp_path / "run"
    opened = mirror(f"s3://{BUCKET}/runs/never", folder)
    with pytest.raises(ResourceError, match=r"s3://bucket/runs/never: cannot"), opened.open():  # noqa: PT012 - the end fails
        folder.mkdir(exist_ok=True)
        (folder / "a").write_text("x")
        line.faults = ["503"] * 10_000
        line.cut()


def test_the_error_of_a_run_stays_where_its_end_cannot_be_stored(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapo.storage.store.PATIENCE_S", 0.3)
    folder, notes = tmp_path / "run", list[str]()
    opened = RunMirror(f"s3://{BUCKET}/runs/error", folder, 60.0, notes.append)
    with pytest.raises(ValueError, match="the run fails"), opened.open():  # noqa: PT012 - the end fails, too
        folder.mkdir(exist_ok=True)
        (folder / "a").write_text("x")
        line.faults = ["503"] * 10_000
        line.cut()
        raise ValueError("the run fails")
    assert f"what is not stored is in {folder}" in notes[-1]


def test_a_stage_that_could_not_be_stored_is_said_once(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapo.storage.store.PATIENCE_S", 0.3)
    folder, notes, began = tmp_path / "run", list[str](), time.monotonic()
    opened = RunMirror(f"s3://{BUCKET}/runs/said-once", folder, 60.0, notes.append)
    with pytest.raises(SystemExit), opened.open():  # noqa: PT012 - as `rapo run` ends
        folder.mkdir(exist_ok=True)
        (folder / "a").write_text("paid for")
        line.faults = ["503"] * 10_000
        line.cut()
        try:
            opened.flush()
        except ResourceError as error:
            notes.append(str(error))
            raise SystemExit(2) from error
    assert len(notes) == 1
    assert f"what is not stored is in {folder}" in notes[0]
    assert time.monotonic() - began < 30
    assert (folder / "a").read_text() == "paid for"


@pytest.mark.timeout(120)
def test_a_wait_for_the_storage_is_said_and_ends_with_ctrl_c(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapo.storage.store._SAID_AFTER_S", 0.1)
    monkeypatch.setattr(module, "_LAST_S", 1000.0)  # what ends it is that nothing is tried again
    folder, notes = tmp_path / "run", list[str]()

    def note(text: str) -> None:
        notes.append(text)
        if "does not answer" in text:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), RunMirror(f"s3://{BUCKET}/runs/gone", folder, 60.0, note).open():  # noqa: PT012
            folder.mkdir(exist_ok=True)
            for name in "abcdefghijklmnop":
                (folder / name).write_text(name)
            line.faults = ["503"] * 100_000
            line.cut()
    finally:
        signal.signal(signal.SIGINT, before)
    assert f"what is not stored is in {folder}" in notes[-1]


def test_notes_go_where_they_can_be_read(url: str, tmp_path: Path) -> None:
    first, inner = list[str](), list[str]()
    opened = RunMirror(url, tmp_path / "run", 60.0, first.append)
    with opened.noting(inner.append):
        opened._note("in the block")
    opened._note("after it")
    assert (first, inner) == (["after it"], ["in the block"])


def test_results_have_their_own_names(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    opened = mirror(url, folder)
    with opened.open():
        (folder / "export").mkdir(parents=True)
        (folder / "export/config.json").write_text("{}")
        (folder / "report.json").write_text("{}")
        opened.publish_results()
    names = {one.name for one in Store(url).files() if not one.name.startswith(".rapo/")}
    assert names == {"export/config.json", "export/.rapo-files.json", "report.json"}


def test_a_model_folder_is_at_the_url_for_machines_without_the_runs_folder(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = folder / "coldstart/model"
    run = mirror(url, folder)
    with run.open():
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        at = run.at_url(model)
        assert (local_copy(at, tmp_path / "node") / "config.json").read_text() == "{}"
        (model / "config.json").write_text("[1, 2]")  # trained anew
        assert (local_copy(run.at_url(model), tmp_path / "node") / "config.json").read_text() == "[1, 2]"
        assert run.at_url(tmp_path / "given") == tmp_path / "given"


def test_a_state_is_at_the_url_for_ranks_until_the_results_are(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    state = folder / "rapo/state/step-000001/learner"
    run = mirror(url, folder)
    with run.open():
        state.mkdir(parents=True)
        (state / "x.pt").write_text("tensors")
        assert (local_copy(run.at_url(state), tmp_path / "node") / "x.pt").read_text() == "tensors"
        run.publish_results()
    assert [one.name for one in Store(url).files("rapo")] == []
    assert read_state(Store(url)) is not None
