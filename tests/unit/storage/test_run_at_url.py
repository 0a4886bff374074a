"""A run whose `--out` is a URL: a finished stage is there on a machine that has nothing of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.files.run_mirror import scratch_folder
from rapo.storage.store import Store
from tests.s3_server import BUCKET

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
