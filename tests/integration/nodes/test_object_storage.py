"""A run in object storage: killed, with every local file lost, it goes on to the same end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.files.run_mirror import scratch_folder
from rapo.errors import ResourceError
from rapo.storage.snapshot import read_state
from rapo.storage.store import Store
from tests.integration.test_resume import model_of, rows, steps_of, wait_for
from tests.s3_server import BUCKET, environment, s3_server
from tests.small import branch, rapo, settings

pytestmark = [pytest.mark.integration, pytest.mark.release]

URL = f"s3://{BUCKET}/runs/one"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server() as port:
        for key, value in environment(port).items():
            monkeypatch.setenv(key, value)
        yield


def stored_states() -> set[str]:
    """The states that are there; none where the server is too busy to say."""
    try:
        state = read_state(Store(URL))
    except ResourceError:
        return set()
    names = {} if state is None else state.files
    return {name.split("/")[2] for name in names if name.startswith("rapo/state/step-")}


def test_a_run_goes_on_after_the_loss_of_its_machine(s3: None, finished: Path, started: Path, tmp_path: Path) -> None:
    # The numbers do not depend on how many workers sample.
    local = (f"storage.scratch={tmp_path}", "storage.every_s=0.5", "rollout.workers=1")
    folder = scratch_folder(URL, tmp_path)
    folder.parent.mkdir(parents=True)
    branch(started, folder, *local)
    with (tmp_path / "test.log").open("ab") as log:
        command = [sys.executable, "-m", "rapo", "train", "--out", URL, *settings(*local)]
        process = subprocess.Popen(command, env={**os.environ, "CI": "true"}, stdout=log, stderr=log)
    wait_for(lambda: len(stored_states()) >= 2, process, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    shutil.rmtree(folder.parent)

    again = rapo("train", "--out", URL, *settings(*local))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"restored from {URL}" in again.stdout + again.stderr
    assert "goes on after step" in again.stdout + again.stderr
    assert rows(folder, "ledger.jsonl") == rows(finished, "ledger.jsonl")
    assert [row["loss"] for row in steps_of(folder)] == [row["loss"] for row in steps_of(finished)]
    one, other = model_of(finished), model_of(folder)
    assert all(np.array_equal(one[name], other[name]) for name in one)
