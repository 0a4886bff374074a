"""Fixtures of the storage tests: a real S3 server, and a line to it that fails on demand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3_server import Line, environment, line_to, s3_server


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(s3_port).items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def line(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setenv("RAPO_STORAGE_REQUEST_S", "2")
    with line_to(s3_port) as line:
        for key, value in environment(line.port).items():
            monkeypatch.setenv(key, value)
        yield line
