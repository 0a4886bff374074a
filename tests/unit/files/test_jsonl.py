"""JSON lines: rows stay apart after a crash, and damaged ones cost only themselves."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from cluster.files.jsonl import append_jsonl, ends_torn, parse_jsonl, read_jsonl
from rapo.errors import ResourceError


def test_append_jsonl_keeps_rows_apart_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "rapo" / "metrics.jsonl"
    append_jsonl(path, {"step": 1, "loss": math.nan, "text": "a\nb"})
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    append_jsonl(path, {"step": 3})
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, "loss": None, "text": "a\nb"}
    assert lines[1:] == ['{"step": 2, "lo', '{"step": 3}']
    assert read_jsonl(path) == [{"step": 1, "loss": None, "text": "a\nb"}, {"step": 3}]


def test_append_jsonl_takes_back_half_a_row_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"step": 1})
    real, calls = os.write, []

    def short(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, bytes(data)[:4])

    monkeypatch.setattr("cluster.files.jsonl.os.write", short)
    with pytest.raises(ResourceError, match=r"metrics\.jsonl"):
        append_jsonl(path, {"step": 2})
    assert path.read_text() == '{"step": 1}\n'


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    data = b'\xff\n[1]\n\n  \n{"step": 1, "text": "\xe2\x80\xa8"}\r\n{"step": 2'
    assert list(parse_jsonl(data)) == [None, None, {"step": 1, "text": "\u2028"}, None]
    (tmp_path / "x.jsonl").write_bytes(data)
    assert read_jsonl(tmp_path / "x.jsonl") == [{"step": 1, "text": "\u2028"}]
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(10, 30)))
    assert read_jsonl(path, last_bytes=30) == [{"step": 28}, {"step": 29}]
    assert len(read_jsonl(path, last_bytes=10_000)) == 20


@pytest.mark.parametrize(("data", "torn"), [(b"", False), (b"{}\n", False), (b"{}\n{", True)])
def test_a_torn_end_is_seen(tmp_path: Path, data: bytes, torn: bool) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    with (tmp_path / "x.jsonl").open("rb") as file:
        assert ends_torn(file) is torn
