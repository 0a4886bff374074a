"""`rapo score` on a tree of files of all sorts: what is an image, what is counted."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cluster.cli.score.inputs import find_images
from rapo.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"50")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    touch(photos, "a.jpg", "b.HEIC", "c.jpe", "d.jp2", "sub/e.png", "noext", "notes.txt", "more.txt", "x.CR2", "y.jxl")
    touch(photos, ".hidden.jpg", ".git/x.png", ".thumbnails/normal/t.png", "@eaDir/a.jpg/T.jpg", "__MACOSX/._a.jpg")
    touch(photos, "@Recycle/r.jpg")
    touch(tmp_path, "elsewhere/l.jpg", "elsewhere/deep/m.jpg", "elsewhere/n.txt")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "sub" / "self").symlink_to("self")
    (photos / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.jpg")
    return photos


def found(*paths: Path | str) -> tuple[list[str], str]:
    inputs = find_images([str(path) for path in paths])
    return [os.path.relpath(path, os.path.commonpath(inputs.images)) for path in inputs.images], inputs.left_out.line()


def test_one_rule_holds_for_the_whole_tree_and_the_rest_is_counted(tree: Path) -> None:
    names, line = found(tree)
    assert names == ["a.jpg", "b.HEIC", "c.jpe", "d.jp2", "gone.jpg", "sub/e.png", "linked/l.jpg", "linked/deep/m.jpg"]
    assert line == (
        "not looked at: folders that a system made for itself: 3; hidden files: 1; hidden folders: 2; "
        "linked folders that were searched already: 1; pipes, sockets and devices: 1; "
        "raw images, to be developed into TIFF or JPEG first: 1 (.cr2 1); "
        "images of a format that is not decoded, to be converted first: 1 (.jxl 1); "
        "files without an image's suffix: 5 (.txt 3, no suffix 2)"
    )


def test_a_folder_that_is_named_is_searched_whatever_its_name(tree: Path) -> None:
    assert found(tree / ".git")[0] == ["."]
    assert found(tree / "@eaDir")[0] == ["."]


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/b.jpg")
    (tmp_path / "one" / "to").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "back").symlink_to(tmp_path / "one")
    names, line = found(tmp_path / "one")
    assert names == ["a.jpg", "to/b.jpg"]
    assert "searched already: 1" in line


def test_a_real_folder_comes_before_a_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "zoo/a.jpg")
    (tmp_path / "album").symlink_to("zoo")
    assert [path.name for path in find_images([str(tmp_path)]).images] == ["a.jpg"]
    assert find_images([str(tmp_path)]).images[0].parent.name == "zoo"


def test_a_file_that_is_named_in_several_ways_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "p/a.jpg", "p/b.jpg")
    Path("other").symlink_to("p")
    Path("p/link.jpg").symlink_to("a.jpg")
    names = ["p/a.jpg", "./p/a.jpg", "p/../p/a.jpg", str(tmp_path / "p/a.jpg"), "other/a.jpg", "p"]
    assert find_images(names).images == [Path("p/a.jpg"), Path("p/b.jpg"), Path("p/link.jpg")]
    with pytest.raises(DataError, match="an empty name would be the working folder"):
        find_images(["p", ""])


def test_a_pattern_meets_an_image_once(tree: Path) -> None:
    names, line = found(tree / "**" / "*.*[gG]")
    assert names == ["a.jpg", "gone.jpg", "linked/deep/m.jpg", "linked/l.jpg", "pipe.jpg", "sub/e.png"]
    assert "met again behind a linked folder" in line
    assert "files in folders that a system made for itself" in line


def test_a_pattern_that_matches_nothing_is_said(tree: Path) -> None:
    names, line = found(tree / "a.jpg", tree / "*.gif")
    assert names == ["."]
    assert "patterns that match nothing: 1 (" in line
    assert "*.gif" in line
    with pytest.raises(DataError, match="match nothing"):
        find_images([str(tree / "*.gif")])


def test_brackets_in_a_folder_that_exists_are_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "trip [2020]/a.jpg")
    assert find_images([str(tmp_path / "trip [2020]" / "*.jpg")]).images == [tmp_path / "trip [2020]" / "a.jpg"]


def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "shut/b.jpg")
    real = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "shut":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    names, line = found(tmp_path)
    assert names == ["."]
    assert line == "not looked at: folders that cannot be read: 1"


def test_a_list_may_hold_any_bytes(tmp_path: Path) -> None:
    latin = os.fsdecode(b"caf\xe9.jpg")
    assert find_images(["-"], [b"\xef\xbb\xbfa.jpg\r\n", b"caf\xe9.jpg\n", b"\n"]).images == [
        Path("a.jpg"),
        Path(latin),
    ]
    assert find_images(["-"], [b"one\r\n", b"two.jpg\0three.jpg\0"]).images == [
        Path("one\r\ntwo.jpg"),
        Path("three.jpg"),
    ]


def test_a_socket_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.png")
        assert stat.S_ISSOCK(Path("s.png").stat().st_mode)
        assert "pipes, sockets and devices: 1" in find_images(["."]).left_out.line()


@pytest.mark.parametrize("name", ["x" * 5000, "no\0thing", "~nobody-here/x.jpg"])
def test_a_name_that_no_system_takes_is_an_error_of_one_line(name: str) -> None:
    with pytest.raises(DataError, match="does not exist") as error:
        find_images([name])
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()
