"""Files of a run folder: whole or not at all, strict JSON, a full disk named."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cluster.files.atomic import read_json, write_atomic, write_json
from rapo.errors import ResourceError, RunFolderError


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_atomic_makes_parents_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "ä")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "x", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(f"cluster.files.atomic.os.{call}", _full)
    with pytest.raises(ResourceError, match=r"report\.json.* MiB free in"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_other_os_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_write_json_never_writes_nan_and_takes_numpy_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value: dict[object, object] = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": np.float32("nan")}
    value |= {"d": np.array([1.0, np.nan]), "e": np.int64(3), "f": Path("p"), 7: True, "g": Point(1, math.nan)}
    write_json(path, value)

    def refuse(token: str) -> None:
        raise AssertionError(token)

    loaded = json.loads(path.read_text(), parse_constant=refuse)
    expected: dict[str, object] = {"a": None, "b": [None, None, 1.5], "c": None, "d": [1.0, None]}
    expected |= {"e": 3, "f": "p", "7": True, "g": {"x": 1, "y": None}}
    assert loaded == expected == read_json(path)


def test_write_json_names_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"value\.a\[1\] is a object"):
        write_json(tmp_path / "x.json", {"a": [1, object()]})
    assert not list(tmp_path.iterdir())


def test_read_json_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"x\.json does not exist"):
        read_json(tmp_path / "x.json")
    for content in (b"{", b"\xff\xfe{}x"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(RunFolderError, match=r"x\.json is not valid JSON"):
            read_json(tmp_path / "x.json")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_json(tmp_path)
