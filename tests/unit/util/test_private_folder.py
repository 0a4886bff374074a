"""The private folder: nobody else can enter it, whatever lies in its place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rapo.util.private_folder import private_folder


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def test_it_is_made_once_and_only_its_user_may_enter(inside: Path) -> None:
    path = private_folder()
    assert path == private_folder() == inside / f"rapo-{os.getuid()}"
    assert (mode(path), path.stat().st_uid) == (0o700, os.getuid())


def test_another_folder_to_put_it_in_is_made(inside: Path) -> None:
    path = private_folder(inside / "a" / "b")
    assert path.parent == inside / "a" / "b"
    assert mode(path) == 0o700


def open_folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def link(path: Path) -> None:
    (path.parent / "theirs").mkdir()
    path.symlink_to(path.parent / "theirs")


def broken_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def file(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize("make", [open_folder, link, broken_link, file])
def test_what_others_put_in_its_place_is_not_used(inside: Path, make: Callable[[Path], None]) -> None:
    taken = inside / f"rapo-{os.getuid()}"
    make(taken)
    path = private_folder()
    assert path not in (taken, taken.resolve())
    assert (mode(path), path.is_symlink()) == (0o700, False)
