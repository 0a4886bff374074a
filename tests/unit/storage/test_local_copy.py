"""Local copies, from a real S3 server: fetched once, verified, and fetched anew after a change."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash

from cluster.cli.check import problems
from cluster.cli.run import with_absolute_paths, with_copies_here
from rapo.aescot.check import check_judge, check_teacher
from rapo.aescot.provenance import ROLES, UsedBy, role_facts
from rapo.chat.open import open_chat_model
from rapo.config import load_config
from rapo.errors import ConfigError, ResourceError
from rapo.models.folder import check_model_folder
from rapo.storage.local_copy import local_copy, state_copy
from rapo.storage.snapshot import LIST
from rapo.storage.store import DamagedError, Store
from rapo.util.file_digest import model_digest
from tests.s3_server import BUCKET


@pytest.fixture
def url(request: pytest.FixtureRequest, s3: None) -> str:
    return f"s3://{BUCKET}/copies/{request.node.name}"


def put(url: str, folder: Path) -> None:
    store = Store(url)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        store.upload(path, path.relative_to(folder).as_posix(), path.stat().st_size)


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert local_copy(tmp_path) == tmp_path
    assert local_copy(f"file://{tmp_path}") == tmp_path
    assert local_copy("embedded") == Path("embedded")


def test_a_model_is_fetched_once_by_many_and_anew_after_a_change(
    url: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(url, tiny_model)
    fetched: list[str] = []
    download = Store.download

    def note(self: Store, name: str, path: Path, checksum: str | None = None) -> None:
        fetched.append(name)
        download(self, name, path, checksum)

    monkeypatch.setattr(Store, "download", note)
    with ThreadPoolExecutor(4) as pool:
        # The path is how a URL travels to a worker.
        copies = list(pool.map(lambda _: local_copy(Path(url), tmp_path), range(4)))
    assert len(set(copies)) == 1
    check_model_folder(copies[0])
    assert sorted(fetched) == sorted(path.name for path in tiny_model.iterdir())
    Store(url).write("extra.txt", b"x")
    assert (local_copy(url, tmp_path) / "extra.txt").read_text() == "x"


def test_a_file_is_fetched_alone(url: str, tmp_path: Path) -> None:
    Store(url).write("labels.csv", b"image,score\n")
    assert local_copy(f"{url}/labels.csv", tmp_path).read_text() == "image,score\n"


def test_what_is_not_there_or_damaged_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=f"{url}: nothing is stored there"):
        local_copy(url, tmp_path)
    store = Store(url)
    store.write("a", b"content")
    files = {"a": [7, xxhash.xxh3_128_hexdigest(b"content")], "b": [1, "0" * 32]}
    store.write(LIST, json.dumps(files).encode())
    with pytest.raises(DamagedError, match="b is missing"):
        local_copy(url, tmp_path)
    store.write("b", b"x")
    with pytest.raises(DamagedError, match="b is damaged"):
        local_copy(url, tmp_path)
    store.write("b", b"x")
    files["b"] = [1, xxhash.xxh3_128_hexdigest(b"x")]
    store.write(LIST, json.dumps(files).encode())
    assert (local_copy(url, tmp_path) / "a").read_text() == "content"


#: Has the copy of a state, says where, and keeps it until its input ends.
_READER = """
import sys
from pathlib import Path
from rapo.storage.local_copy import state_copy
with state_copy(sys.argv[1], Path(sys.argv[2])) as here:
    print(here, flush=True)
    sys.stdin.read()
"""


def test_of_states_only_those_stay_that_somebody_reads_and_the_last(url: str, tmp_path: Path) -> None:
    for name in ("model", "state/1", "state/2", "state/3"):
        Store(f"{url}/{name}").write("x.pt", name.encode())
    model = local_copy(f"{url}/model", tmp_path)
    with state_copy(tmp_path) as here:
        assert here == tmp_path

    command = [sys.executable, "-c", _READER, f"{url}/state/1", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        first = Path(reader.stdout.readline().strip())
        with state_copy(f"{url}/state/2", tmp_path) as second:
            assert (second / "x.pt").read_text() == "state/2"
            assert (first / "x.pt").read_text() == "state/1", "another process reads it"
        reader.kill()
    assert (second / "x.pt").is_file(), "a rank that starts again needs it"
    with state_copy(f"{url}/state/3", tmp_path) as third:
        assert not first.parent.exists()
        assert not second.parent.exists()
    with state_copy(f"{url}/state/1", tmp_path) as again:
        assert (again / "x.pt").read_text() == "state/1"
    assert not third.parent.exists()
    assert (model / "x.pt").is_file()


def test_a_state_that_is_being_fetched_stays(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1", "2"):
        Store(f"{url}/{name}").write("x.pt", name.encode())
    with state_copy(f"{url}/1", tmp_path):
        pass
    Store(f"{url}/1").write("x.pt", b"another")
    began, go_on = threading.Event(), threading.Event()
    download = Store.download

    def slow(self: Store, name: str, path: Path, checksum: str | None = None) -> None:
        download(self, name, path, checksum)
        if self.url.endswith("/1"):
            began.set()
            assert go_on.wait(20)

    def fetch_again() -> str:
        with state_copy(f"{url}/1", tmp_path) as here:
            return (here / "x.pt").read_text()

    monkeypatch.setattr(Store, "download", slow)
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(fetch_again)
        assert began.wait(20)
        with state_copy(f"{url}/2", tmp_path):
            go_on.set()
            assert fetched.result(20) == "another"


def test_a_run_takes_model_and_data_from_urls(url: str, tiny_model: Path, tmp_path: Path) -> None:
    put(f"{url}/model", tiny_model)
    Store(url).write("labels.csv", b"image,score\n")
    config = with_absolute_paths(
        load_config(
            overrides=[f"policy.model={url}/model", f"data.path={url}/labels.csv", f"storage.scratch={tmp_path}"]
        )
    )
    assert config.policy.model == f"{url}/model"
    here = with_copies_here(config)
    assert here.data.path is not None
    assert here.data.path.read_text() == "image,score\n"
    assert not [line for line in problems(here, ("coldstart",)) if "model folder" in line]
    gone = config.model_copy(update={"policy": config.policy.model_copy(update={"model": f"{url}/none"})})
    with pytest.raises(ResourceError, match="none: nothing is stored there"):
        with_copies_here(gone)


def test_a_teacher_and_a_judge_come_from_urls(url: str, tiny_model: Path, tmp_path: Path) -> None:
    put(f"{url}/model", tiny_model)
    settings = [f"storage.scratch={tmp_path}"]
    for role in ROLES:
        settings += [f"aescot.{role}.kind=vllm", f"aescot.{role}.model={url}/model"]
    config = with_copies_here(with_absolute_paths(load_config(overrides=settings)))
    assert config.aescot.teacher.model == f"{url}/model", "each machine with a teacher fetches it for itself"
    check_teacher(config)
    check_judge(config)
    for role in ROLES:
        assert role_facts(config, role, UsedBy(role)).digest == model_digest(tiny_model)
    gone = load_config(overrides=[*settings, f"aescot.judge.model={url}/none"])
    with pytest.raises(ResourceError, match="none: nothing is stored there"):
        check_judge(gone)


def test_an_engine_gets_the_copy_of_its_model(
    url: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{url}/model", tiny_model)
    given: list[Path] = []
    monkeypatch.setattr("rapo.inference.chat_engine.VllmModel", lambda folder, *_, **named: given.append(folder))
    settings = [f"storage.scratch={tmp_path}", "aescot.teacher.kind=vllm", f"aescot.teacher.model={url}/model"]
    config = load_config(overrides=settings)
    open_chat_model(config, config.aescot.teacher)
    assert given[0].is_relative_to(tmp_path)
    assert (given[0] / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()


@pytest.mark.parametrize("key", ["policy.model", "aescot.judge.model", "data.path", "data.images"])
@pytest.mark.parametrize("url", ["https://host/x", "s3://bucket"], ids=["scheme", "key"])
def test_a_url_that_cannot_be_opened_is_refused(key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=r"supported|bucket and a key"):
        load_config(overrides=[f"{key}={url}"])
