"""RunMirror: a run's folder at a URL, one owner at a time, and nothing lost with the machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.files import run_mirror as module
from cluster.files.run_mirror import RunMirror, scratch_folder
from rapo.errors import ResourceError, RunFolderError
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
