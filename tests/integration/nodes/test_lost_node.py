"""A node of learner ranks is lost: where each snapshot lies on the next node as well, the ranks go
on from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.release]


def lose_a_node(*, buddy: bool) -> dict[str, Any]:
    program = [sys.executable, "-m", "tests.integration.nodes.lost_node", str(buddy).lower()]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def test_ranks_go_on_from_the_copies_on_the_node_that_is_left() -> None:
    found = lose_a_node(buddy=True)
    assert found["copied"] == 2
    assert found.get("error") is None
    assert found["steps"] == 2 * 6, "no step is lost and none is applied twice"
    assert found["read"] == [3, 3], "from the snapshot after the third step"


def test_without_copies_the_state_is_lost() -> None:
    found = lose_a_node(buddy=False)
    assert found["copied"] == 0
    assert "lost together with the node" in found["error"]
