"""A run whose `--out` is a URL: a finished stage is there on a machine that has nothing of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.files.run_mirror import scratch_folder
from rapo.storage.store import Store
from tests.s3_server import BUCKET, Line, free_port

STAGE = """
import sys
from pathlib import Path
from cluster.cli.run import run_stages
url, scratch = sys.argv[1:]
few = [f"data.scenes.{split}=4" for split in ("train", "validation", "test")]
run_stages(None, Path(url), [f"storage.scratch={scratch}", "rapo.images_per_step=4", *few], ("data",))
"""


def run(url: str, scratch: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STAGE, url, str(scratch)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "CI": "true"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.usefixtures("s3")
def test_a_stage_is_finished_on_every_machine(tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/runs/stage"
    run(url, tmp_path)
    folder = scratch_folder(url, tmp_path)
    kept = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(tmp_path / "runs")
    said = run(url, tmp_path)
    assert f"restored from {url}" in said
    assert "finished before" in said
    assert sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) == kept
    assert b"scenes" in (Store(url).read("config.toml") or b"")


#: SIGINT is ignored where the tests run in the background.
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from cluster.cli.main import main
main()
"""


def start(url: str, scratch: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", "--out", url, "--set", f"storage.scratch={scratch}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CI": "true", **environment},
    )


@pytest.mark.usefixtures("s3")
def test_a_storage_that_is_away_is_one_error(tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/runs/away"
    nobody = f"http://127.0.0.1:{free_port()}"
    said, _ = start(url, tmp_path, AWS_ENDPOINT_URL=nobody, RAPO_STORAGE_PATIENCE_S="1").communicate(timeout=60)
    assert said.startswith(f"error: {url}: cannot read")
    assert said.count("\n") == 1


def test_ctrl_c_waits_for_no_silent_storage(line: Line, tmp_path: Path) -> None:
    line.faults = ["hang"] * 100
    process = start(f"s3://{BUCKET}/runs/silent", tmp_path, RAPO_STORAGE_REQUEST_S="60")
    try:
        deadline = time.monotonic() + 60
        while not line.met:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
        assert "interrupted" in said
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait(10)
