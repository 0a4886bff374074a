"""Files that are followed: any change is taken up, and none that cannot be used does harm."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
from serving import FakeDeployment, gateway_on

import services.gateway.server as server_module
from rapo.errors import ConfigError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.gateway.reloading import FileFollower, ReloadingFile, read_small, read_toml
from services.gateway.tokens import token_line


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(token_line("web", "t-web"))
    return path


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path)


def text(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    write.__name__ = f"{content[:8]!r}"
    return write


#: What may come in the place of a followed file.
ODD = [
    fifo, folder, device, circle, text(b""), text(b"\0"), text(b"\xff\xfe"), text(b"a" * (2**20 + 1)),
    text(b"web = " + b"[" * 100_000), text(b"web = " + b"9" * 5000), text(b"web = {}"), text(b"web = 1979-05-27"),
]  # fmt: skip


@pytest.mark.parametrize("make", ODD)
def test_an_odd_file_is_a_config_error_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "x.toml"
    make(path)
    began = time.monotonic()
    watched = ReloadingFile([path], lambda: 1)
    with suppress(ConfigError):  # some are TOML, and no tokens
        read_toml(path, "it")
    assert not watched.refresh()
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("name", ["a\0b", "x" * 6000])
def test_a_name_that_no_file_can_have_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError):
        read_small(Path(name), "it")
    assert not ReloadingFile([Path(name)], lambda: 1).refresh()


@pytest.mark.parametrize("error", [OSError("gone"), KeyError("x"), RecursionError(), MemoryError()])
def test_any_error_of_a_change_changes_nothing(path: Path, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Exception] = []

    def read() -> str:
        if answers:
            raise answers[0]
        return path.read_text()

    watched = ReloadingFile([path], read)
    before, answers[:] = watched.value, [error]
    path.write_text("new")
    with caplog.at_level(logging.ERROR):
        assert not watched.refresh()
    assert (watched.value, watched.failures) == (before, 1)
    assert "stays in force" in caplog.text


def test_a_file_written_in_place_and_dated_back_is_seen(path: Path) -> None:
    watched = ReloadingFile([path], path.read_text)
    found = path.stat()
    path.write_text(path.read_text().replace("web", "abc"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert watched.refresh()
    assert watched.value.startswith("abc")


class Hanging:
    """A file on a file system that does not answer."""

    def __init__(self) -> None:
        self.name, self.entered, self.release = "hanging.toml", threading.Event(), threading.Event()

    def refresh(self) -> bool:
        self.entered.set()
        self.release.wait(60)
        return False


def test_a_file_that_does_not_answer_is_told_once_and_holds_no_other(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hanging, other = Hanging(), ReloadingFile([path], path.read_text)
    follower = FileFollower({"a": hanging, "b": other}, period_s=0.02, limit_s=0.2)
    assert hanging.entered.wait(5)
    path.write_text("new")
    assert until(lambda: other.value == "new")
    found: list[str] = []

    def stuck() -> bool:
        found.extend(follower.stuck())
        return bool(found)

    assert until(stuck)
    time.sleep(0.1)
    assert (found, follower.stuck()) == (["a"], [])
    assert "hanging.toml cannot be read" in caplog.text
    hanging.release.set()
    follower.close()


def test_a_gateway_serves_on_whatever_comes_in_the_place_of_its_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_FILES_PERIOD_S", 0.02)
    request, known = scorer_pb2.ScoreRequest(image=b"0.5"), [("authorization", "Bearer t-web")]
    with gateway_on(FakeDeployment(), tokens=str(path)) as gateway, grpc.insecure_channel(gateway.address) as channel:
        score = scorer_pb2_grpc.AestheticScorerStub(channel).Score
        failures = gateway.metrics.reload_failures.labels("tokens")._value

        def more_than(count: float) -> bool:
            return float(failures.get()) > count

        for make in ODD:
            seen = failures.get()
            aside = path.with_name("aside")
            make(aside)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
            aside.rename(path) if make is not circle else make(path)
            if make is circle:
                aside.unlink()
            assert until(partial(more_than, seen)), make.__name__
            assert score(request, timeout=5, metadata=known).score == 0.5
        path.unlink()
        path.write_text(token_line("web", "other"))

        def renewed() -> bool:
            try:
                score(request, timeout=5, metadata=[("authorization", "Bearer other")])
            except grpc.RpcError:
                return False
            return True

        assert until(renewed)
