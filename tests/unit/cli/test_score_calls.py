"""Calls of `rapo score`: odd names, a default that switches, Ctrl-C, and what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from fake_scorer import FakeScorer, serving
from score_output import console, printed, read
from serving import Authority

from cluster.cli.score.command import score_paths
from cluster.cli.score.names import path_of
from cluster.cli.score.progress import tracked
from rapo.client.sync import ScorerClient
from rapo.client.types import ModelInfo

ODD_NAMES = [
    b"caf\xe9.jpg",
    "cafe\u0301.jpg".encode(),
    b"two\nlines.jpg",
    b"cr\r.jpg",
    "sep\u2028\x85.jpg".encode(),
    b"=1+1.jpg",
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_name_of_a_file_has_one_row_and_is_found_again(
    client: ScorerClient, scorer: FakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ODD_NAMES:
        Path(os.fsdecode(name)).write_bytes(b"50")
    output = tmp_path / f"scores{suffix}"
    assert score_paths(["."], client, output, progress=console()) == 0
    assert sorted(os.fsencode(path_of(str(row["image"]))) for row in read(output)) == sorted(ODD_NAMES)
    if suffix != ".parquet":
        assert len(output.read_text().splitlines()) == len(ODD_NAMES) + (suffix == ".csv")
    scorer.requests.clear()
    assert score_paths(["."], client, output, progress=console()) == 0
    assert not scorer.requests


def test_a_default_that_switches_in_the_middle_does_not_mix_versions(
    client: ScorerClient, scorer: FakeScorer, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    for number in range(40):
        (photos / f"n{number:02}.jpg").write_text(str(number))
    (photos / "broken.jpg").unlink()
    scorer.delay_s = 0.02

    def switch() -> None:
        while len(scorer.requests) < 10:
            time.sleep(0.005)
        scorer.default = "v6"

    switching = threading.Thread(target=switch)
    switching.start()
    assert score_paths([str(photos)], client, output, progress=console()) == 0
    switching.join(10)
    assert scorer.default == "v6"
    assert {row["model_version"] for row in read(output)} == {"v7"}


def test_the_version_that_the_table_was_held_against_is_asked(
    client: ScorerClient, scorer: FakeScorer, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default switches as soon as it was asked for."""
    asked = client.model

    def model(version: str = "") -> ModelInfo:
        found = asked(version)
        scorer.default = "v6"
        return found

    monkeypatch.setattr(client, "model", model)
    output = tmp_path / "scores.csv"
    assert score_paths([str(photos / "b.jpg")], client, output, progress=console()) == 0
    assert [row["model_version"] for row in read(output)] == ["v7"]


def test_a_log_gets_a_line_now_and_then() -> None:
    log = console()
    times = iter(range(0, 1000, 4))
    assert list(tracked(range(10), 10, log, lambda: float(next(times)))) == list(range(10))
    assert printed(log).splitlines() == [
        "scored 3 of 10 images, 0.2 a second, about 28 s left",
        "scored 6 of 10 images, 0.2 a second, about 16 s left",
        "scored 9 of 10 images, 0.2 a second, about 4.0 s left",
    ]


def test_what_was_not_looked_at_is_said(client: ScorerClient, photos: Path, tmp_path: Path) -> None:
    progress = console()
    paths = [str(photos / "b.jpg"), str(photos), str(photos / "*.heic")]
    (photos / "broken.jpg").unlink()
    assert score_paths(paths, client, tmp_path / "scores.csv", progress=progress) == 1
    assert "hidden files: 1" in printed(progress)
    assert ".txt 1" in printed(progress)
    assert "patterns that match nothing: 1" in printed(progress)


def test_ctrl_c_says_how_to_go_on(client: ScorerClient, scorer: FakeScorer, photos: Path, tmp_path: Path) -> None:
    for number in range(30):
        (photos / f"e{number:02}.jpg").write_text(str(number))
    scorer.delay_s = 0.2
    output = tmp_path / "scores.csv"
    # A shell starts what runs in the background with SIGINT ignored, and these tests may run there.
    as_in_front = (
        "import signal as s; s.signal(s.SIGINT, s.default_int_handler); from rapo.__main__ import main; main()"
    )
    command = [sys.executable, "-c", as_in_front, "score", str(photos), "-o", str(output), "--server", client.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        partial = tmp_path / "scores.csv.partial.jsonl"
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.read_text().count("\n") >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "of 34 images are scored and kept; the same command scores the rest" in words
    assert "Traceback" not in words


def test_stderr_holds_no_lines_of_grpc(scorer: FakeScorer, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    certificate, key = authority.issue("server")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with serving(scorer, credentials=credentials) as target:
        command = [sys.executable, "-m", "rapo", "score", str(photos / "b.jpg"), "--server", target, "--timeout", "5"]
        for options, words in (([], "takes TLS only"), (["--ca", str(other.path)], "cannot be trusted")):
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
            assert done.returncode == 2
            assert words in done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
