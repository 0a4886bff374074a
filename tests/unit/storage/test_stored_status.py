"""`rapo status URL`: what a run stored, read without changing anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.cli.status import RunStatus
from cluster.cli.status_view import show_status
from cluster.cli.stored_status import StoredRun, stored_run
from cluster.files.run_mirror import RunMirror
from rapo.errors import ResourceError, RunFolderError
from rapo.storage.store import Store
from tests.s3_server import BUCKET


@pytest.fixture
def url(request: pytest.FixtureRequest, s3: None) -> str:
    return f"s3://{BUCKET}/status/{request.node.name}"


@pytest.fixture
def run(url: str, tmp_path: Path) -> Iterator[tuple[RunMirror, Path]]:
    """A run that works, in its second RAPO step."""
    folder = tmp_path / "run"
    mirror = RunMirror(url, folder, 60.0, lambda text: None)
    with mirror.open():
        write(folder / "config.toml", "")
        write(folder / "data/done.json", '{"seconds": 3.0}')
        write(folder / "data/images.npy", "large")
        write(folder / "rapo/metrics.jsonl", '{"step": 1, "loss": 0.5}\n')
        write(folder / "rapo/state.json", json.dumps({"step": 2, "steps": 4, "updated": time.time()}))
        write(folder / "rapo/state/step-1", "large")
        mirror.flush()
        yield mirror, folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def states(status: RunStatus) -> Sequence[str]:
    return [stage.state for stage in status.stages][:5]


def test_a_run_at_a_url_is_shown_and_nothing_is_written(
    url: str, run: tuple[RunMirror, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, folder = run
    before = {(one.name, one.changed_ns) for one in Store(url).files()}
    fetched: list[str] = []
    download = Store.download

    def note(self: Store, name: str, path: Path, checksum: str | None = None) -> None:
        fetched.append(path.name)
        download(self, name, path, checksum)

    monkeypatch.setattr(Store, "download", note)
    with stored_run(url) as stored:
        status = stored.status()
        assert (status.run, status.driver.state) == (url, "running")
        assert (status.rapo.step, status.rapo.steps) == (2, 4)
        assert states(status) == ["finished", "to do", "to do", "begun", "to do"]
        assert sorted(fetched) == ["config.toml", "done.json", "metrics.jsonl", "state.json"]
        assert before == {(one.name, one.changed_ns) for one in Store(url).files()}

        write(folder / "rapo/done.json", '{"seconds": 9.0}')
        (folder / "rapo/state.json").unlink()
        mirror.flush()
        status = stored.status()
        assert states(status) == ["finished", "to do", "to do", "finished", "to do"]
        assert fetched[4:] == ["done.json"], "only what changed"
        assert status.rapo.steps is None


def test_a_run_that_ended_or_went_silent_is_not_running(url: str, run: tuple[RunMirror, Path], tmp_path: Path) -> None:
    assert StoredRun(url, tmp_path / "copy").status(now=time.time() + 300).driver.state == "not running"
    owner = Store(url).read(".rapo/owner.json")
    assert owner is not None
    Store(url).delete(".rapo/owner.json")
    assert StoredRun(url, tmp_path / "again").status().driver.state == "not running"
    Store(url).write(".rapo/owner.json", owner)


def test_the_command_takes_a_url(url: str, run: tuple[RunMirror, Path], capsys: pytest.CaptureFixture[str]) -> None:
    show_status(Path(url), as_json=True)
    assert json.loads(capsys.readouterr().out)["run"] == url


def test_a_state_that_a_run_replaces_meanwhile_is_read_anew(
    url: str, run: tuple[RunMirror, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    download = Store.download

    def gone(self: Store, name: str, path: Path, checksum: str | None = None) -> None:
        tries.append(name)
        if len(tries) == 1:
            raise ResourceError("is gone")
        download(self, name, path, checksum)

    monkeypatch.setattr(Store, "download", gone)
    assert StoredRun(url, tmp_path / "copy").status().rapo.steps == 4


def test_where_no_run_is_stored_none_is_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"{url} holds no run"):
        StoredRun(url, tmp_path).status()
