"""Store, against a real S3 server, and over a line that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from rapo.errors import ConfigError, ResourceError
from rapo.storage import store as module
from rapo.storage.store import DamagedError, Store
from tests.s3_server import BUCKET, Line


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, s3: None, tmp_path: Path) -> Store:
    url = f"s3://{BUCKET}/{request.node.name}" if request.param == "s3" else f"file://{tmp_path}/stored"
    return Store(url, patience_s=5)


def file_of(path: Path, size: int) -> tuple[Path, str]:
    content = bytes(range(256)) * (size // 256)
    path.write_bytes(content)
    return path, xxhash.xxh3_128_hexdigest(content)


def test_files_go_there_and_come_back(store: Store, tmp_path: Path) -> None:
    path, checksum = file_of(tmp_path / "a", 12 * 2**20)
    assert store.upload(path, "in/a", 12 * 2**20) == checksum
    store.write("in/b", b"words")
    store.copy("in/a", "out/c")
    assert {(one.name, one.size) for one in store.files()} == {
        ("in/a", 12 * 2**20),
        ("in/b", 5),
        ("out/c", 12 * 2**20),
    }
    assert sorted(one.name for one in store.files("in")) == ["in/a", "in/b"]
    store.download("out/c", tmp_path / "back", checksum)
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert (store.read("in/b"), store.read("in/none"), store.size("in/none")) == (b"words", None, None)
    store.delete("in/b")
    store.delete("in/b")
    assert store.size("in/b") is None


def test_what_is_not_what_was_stored_is_not_taken(store: Store, tmp_path: Path) -> None:
    store.write("a", b"other")
    with pytest.raises(DamagedError, match="a is damaged"):
        store.download("a", tmp_path / "a", "0" * 32)
    assert list(tmp_path.glob("*a*")) == []
    with pytest.raises(ResourceError, match="none is gone"):
        store.download("none", tmp_path / "none")


def test_a_file_is_stored_as_far_as_it_was(store: Store, tmp_path: Path) -> None:
    path, _ = file_of(tmp_path / "a", 2560)
    assert store.upload(path, "a", 256) == xxhash.xxh3_128_hexdigest(bytes(range(256)))
    with pytest.raises(OSError, match="shorter"):
        store.upload(path, "b", 4096)


@pytest.mark.parametrize("fault", ["503", "break", "slow", "hang"])
def test_what_passes_is_waited_for(line: Line, tmp_path: Path, fault: str) -> None:
    store = Store(f"s3://{BUCKET}/faults-{fault}", patience_s=30)
    path, checksum = file_of(tmp_path / "a", 256 * 1024)
    line.faults = [fault] * 2
    assert store.upload(path, "a", 256 * 1024) == checksum
    line.cut()
    line.faults = [fault] * 2
    store.download("a", tmp_path / "back", checksum)
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert line.met.count(fault) >= 2


def test_a_storage_that_stays_away_is_an_error_that_names_it(line: Line) -> None:
    line.faults = ["503"] * 1000
    with pytest.raises(ResourceError, match=r"s3://bucket/away: cannot write a: .*"):
        Store(f"s3://{BUCKET}/away", patience_s=1).write("a", b"x")


def test_patience_is_for_an_absence_and_not_for_each_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Service:
        away = True
        tries = 0

        def get_file_info(self, path: str) -> object:
            self.tries += 1
            if self.away:
                raise OSError("it does not answer")
            return files.get_file_info(path)

    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "_LAST_PAUSE_S", 0.01)
    store, tries = Store(f"file://{tmp_path}", patience_s=0.5), []
    files, service = store._files, Service()
    monkeypatch.setattr(store, "_files", service)
    for away in (True, True, False, True):
        service.away, service.tries = away, 0
        if away:
            with pytest.raises(ResourceError, match="it does not answer"):
                store.size("a")
        else:
            assert store.size("a") is None
        tries.append(service.tries)
    assert tries[1] == 1, "it has been away for long enough"
    assert min(tries[0], tries[3]) > 1, "it had answered in between"


def test_a_file_has_its_name_when_it_is_whole(store: Store) -> None:
    store.write("a", b"old")
    with store._writing("a") as stream:
        stream.write(b"new, and longer")
        stream.flush()
        assert store.read("a") == b"old"
    assert store.read("a") == b"new, and longer"
    assert [one.name for one in store.files()] == ["a"]


def test_what_the_service_does_not_copy_goes_through_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Service:
        def __getattr__(self, name: str) -> object:
            assert name != "copy_file", "the copy source is larger than the maximum"
            return getattr(files, name)

    store.write("a", b"content")
    files = store._files
    monkeypatch.setattr(store, "_files", Service())
    monkeypatch.setattr(module, "_COPY_LIMIT", 6)
    store.copy("a", "b/c")
    assert store.read("b/c") == b"content"


def test_what_will_not_pass_is_an_error_at_once(s3: None) -> None:
    with pytest.raises(ResourceError, match=r"(?i)bucket does not exist"):
        Store("s3://nothing/x", patience_s=60).write("a", b"x")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://host/x", "https:// is not supported; supported are s3://, gs://, file://"),
        ("s3://bucket", "give a bucket and a key"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("s3://bucket/x?endpoint_override=y", "environment"),
    ],
)
def test_an_address_that_cannot_be_opened(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Store(url)
    assert "secret" not in str(caught.value)
