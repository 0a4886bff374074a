"""Ranks and split workers that share GPUs see the same ones, as Ray gives them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest

from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_a_split_worker_sees_the_gpus_of_its_ranks_and_no_others() -> None:
    program = [sys.executable, "-m", "tests.integration.nodes.shared_gpus"]
    # Ray's sockets need a short path, and its processes may outlive it by a moment.
    with tempfile.TemporaryDirectory(prefix="gpus", ignore_cleanup_errors=True) as folder:
        done = subprocess.run([*program, folder], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: [set(seen.split(",")) for seen in each] for name, each in json.loads(done.stdout).items()}
    every = {"0", "1", "2", "3"}
    for name in ("ranks", "ranks made anew"):
        assert [len(seen) for seen in found[name]] == [1] * 4
        assert set.union(*found[name]) == every, "each rank has a GPU of its own"
    shared = [found["ranks made anew"][first] | found["ranks made anew"][first + 1] for first in (0, 2)]
    assert found["workers"] == shared
    alone = found["workers without ranks"]
    assert [len(seen) for seen in alone] == [2, 2]
    assert set.union(*alone) == every
